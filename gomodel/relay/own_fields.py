"""What an instance adds to the heads of its requests: fixed fields of its operator, and the data-parallel rank.

Decides that a field of the operator's takes the place of the client's of that name, and that a rank which the client
names itself stays. Runs for instances alone that have such settings (VLLM_HEADERS, VLLM_DP_RANKS).
"""

from ..balancing.rendezvous import data_parallel_rank
from ..upstream.replica import Replica
from .outgoing import Outgoing

_RANK = b"x-data-parallel-rank"
_KEY = "{key}"


def choose_rank(outgoing: Outgoing, replica: Replica) -> None:
    """Choose one for this attempt: by what names the conversation, else the one that has least to do."""
    ranks, conversation = replica.ranks, outgoing.choice.conversation
    if ranks is not None:
        number = len(ranks.counts)
        outgoing.rank = data_parallel_rank(conversation, number) if conversation else ranks.idlest()


def with_own_fields(head: bytes, outgoing: Outgoing, replica: Replica) -> bytes:
    """`head` with what the instance adds, behind its first line; as `http1.head.request_head` made it."""
    start, *lines = head.split(b"\r\n")
    names = {name.lower().encode() for name, _ in replica.config.fields}
    kept = [line for line in lines if line.partition(b":")[0].lower() not in names]
    caller = outgoing.request.record.caller
    added = []
    for name, value in replica.config.fields:
        if _KEY not in value:
            added.append(f"{name}: {value}".encode())
        elif caller is not None:  # without the name of a key there is nothing to say
            added.append(f"{name}: {value.replace(_KEY, caller.name)}".encode())
    if outgoing.rank >= 0 and not any(line[: len(_RANK) + 1].lower() == _RANK + b":" for line in (*kept, *added)):
        added.append(b"X-data-parallel-rank: %d" % outgoing.rank)
    return b"\r\n".join([start, *added, *kept])
