"""The lists of all replicas as one for clients: an instance lists what any of its replicas lists, each model once.

Decides under which ids models are told (MODEL_IDS) and what is said of one that several have. Knows nothing of when a
list was read.
"""

import asyncio
import json
from collections.abc import Callable, Collection, Iterable, Sequence

from .model_entries import Entry, ModelList

# Whether a caller may ask an instance for a model.
Allows = Callable[[str, str], bool]

# After so many entries of an answer others have their turn.
_ENTRIES_PER_TURN = 2000


class MergedModels:
    """Lists merged under the ids that MODEL_IDS asks for: `prefixed`, `bare` or `both`."""

    def __init__(self, ids: str, instances: Collection[str]) -> None:
        """`instances`: the names of all of them, which a bare id must not be taken for."""
        self._ids = ids
        self._instances = instances

    async def data(self, lists: Sequence[ModelList], allows: Allows | None = None) -> bytes:
        """All entries as JSON with commas between them, in the order of instances, replicas and their lists.

        Of those that `allows` where it is given.
        """
        by_instance: dict[str, list[ModelList]] = {}
        for each in lists:
            if each.entries:
                by_instance.setdefault(each.replica.name, []).append(each)
        different = [each for group in by_instance.values() for each in _without_twins(group)]
        if self._ids == "prefixed" and allows is None and len(different) == len(by_instance):
            return b", ".join(each.encoded for each in different)
        prefixed: dict[tuple[str, str], bytes] = {}
        bare: dict[str, bytes] = {}
        for name, entries in [(each.replica.name, each.entries) for each in different]:
            for at, entry in enumerate(entries.values(), 1):
                if allows is None or allows(name, entry.id):
                    # One that begins like an instance's name would mean, alone, a model of that instance.
                    misleading = entry.id.partition("/")[0] in self._instances
                    if self._ids != "prefixed" and not misleading:
                        bare.setdefault(entry.id, entry.bare)
                    if self._ids != "bare" or misleading:
                        prefixed.setdefault((name, entry.id), entry.encoded)
                if not at % _ENTRIES_PER_TURN:
                    await asyncio.sleep(0)
        return b", ".join([*prefixed.values(), *bare.values()])

    def find(self, lists: Iterable[ModelList], model_id: str, allows: Allows | None = None) -> bytes | None:
        """What is said of a model under the id that was asked for, or prefixed where bare ids are not listed."""
        head, _, rest = model_id.partition("/")
        for each in lists:
            if each.replica.name == head and rest in each.entries and (allows is None or allows(head, rest)):
                return each.entries[rest].encoded
        for each in lists:
            entry: Entry | None = each.entries.get(model_id)
            if entry is not None and (allows is None or allows(each.replica.name, model_id)):
                return entry.encoded if self._ids == "prefixed" else entry.bare
        return None

    def alias(self, lists: Iterable[ModelList], alias: str, target: str, allows: Allows | None) -> bytes | None:
        """What is said of the model that an alias stands for, under that name; None of one that is not allowed."""
        said = self.find(lists, target, allows)
        if said is None and allows is not None:
            return None
        known = json.loads(said) if said is not None else {"object": "model", "created": 0, "owned_by": "vllm"}
        return json.dumps({**known, "id": alias}).encode()


def _without_twins(lists: Sequence[ModelList]) -> list[ModelList]:
    """Those of an instance that say something new: mostly its replicas list the same, byte for byte."""
    different: dict[bytes, ModelList] = {}
    for each in lists:
        different.setdefault(each.encoded, each)
    return list(different.values())
