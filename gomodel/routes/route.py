"""A route: what is known of a request by its address, for whoever handles it. Decides nothing; see `router`."""

import enum
from collections.abc import Callable
from dataclasses import dataclass

from ..errors import GatewayError


class Kind(enum.Enum):
    """Who handles a request."""

    INFERENCE = enum.auto()
    UNKNOWN = enum.auto()  # below a prefix of vLLM's: which routes exist there is vLLM's to say
    SERVER = enum.auto()
    MODELS = enum.auto()
    MODEL = enum.auto()
    RESPONSES = enum.auto()
    PASSTHROUGH = enum.auto()
    REALTIME = enum.auto()
    BATCHES = enum.auto()  # and files
    HEALTH = enum.auto()
    READY = enum.auto()
    METRICS = enum.auto()
    ADMIN_REQUESTS = enum.auto()
    ADMIN_USAGE = enum.auto()
    ADMIN_INSTANCES = enum.auto()
    ADMIN_KEYS = enum.auto()
    ADMIN_HISTORY = enum.auto()
    ADMIN_ENGINES = enum.auto()
    ADMIN_FAILURES = enum.auto()
    ADMIN_CONFIGURATION = enum.auto()
    STATUS_PAGE = enum.auto()
    NOT_FOUND = enum.auto()


@dataclass(frozen=True, slots=True)
class Route:
    """A classified target. Shared between requests, hence immutable; `refusal` makes a fresh exception for each."""

    kind: Kind
    template: str  # a label from a bounded set; "*" is the target of OPTIONS * and of nothing else
    # Others are 405, except for PASSTHROUGH, where these are but the usual ones; empty where `refusal` is set and no
    # method would help.
    methods: frozenset[str] = frozenset()
    below_base: bool = False  # `tail` counts from the instance's base URL, else from its root
    tail: str = ""  # raw path with its leading slash, and the raw query with its "?"; "" where nothing goes upstream
    anthropic: bool = False  # errors take Anthropic's shape
    # Where the gateway serves the paths below an instance's base URL, and those at its root.
    own_base: str = ""
    own_root: str = ""
    provider: str | None = None  # PASSTHROUGH: the raw segment, not yet known to name anything
    id: str | None = None  # MODEL: the decoded model id; RESPONSES, ADMIN_REQUESTS, ADMIN_INSTANCES: the raw id
    open: bool = False  # served without a key
    polled: bool = False  # asked for again and again by monitors and by the status page
    metered: bool = False  # an answer takes tokens, and most kinds of them say how many
    # A `usage` in the answer to a POST is of that request's own work; that of what is kept counted when it was done.
    spends: bool = False
    replayable: bool = False  # may go out again when a reused connection dies before any response byte
    refusal: Callable[[], GatewayError] | None = None  # to be raised once the caller has shown the key
