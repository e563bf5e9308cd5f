"""What the doctor saw at one place: an exchange, or what else came of it, for each question. Decides nothing."""

from dataclasses import dataclass, field

from .exchange import Exchange


@dataclass(frozen=True)
class Left:
    """What became of the work of a client who left. `freed_s` None: it went on for all of `watched_s`.

    `unknown` says why it cannot be seen; "" where it can.
    """

    freed_s: float | None = None
    watched_s: float = 0.0
    unknown: str = ""

    @property
    def goes_on(self) -> bool:
        """Whether it was seen not to end."""
        return not self.unknown and self.freed_s is None


@dataclass
class Observed:
    """Of one place. What is a list is asked more than once, to learn what differs by itself."""

    shown: str
    model: str = ""
    answers: list[Exchange] = field(default_factory=list)
    second: Exchange = field(default_factory=Exchange)  # on the connection of the first answer
    streams: list[Exchange] = field(default_factory=list)
    fields: list[Exchange] = field(default_factory=list)  # asked with fields that show in the answer
    mistyped: Exchange = field(default_factory=Exchange)  # refused; vLLM repeats each bad value
    missing: Exchange = field(default_factory=Exchange)  # refused; vLLM says how many fields came
    refused: Exchange = field(default_factory=Exchange)
    unknown: Exchange | None = None  # a model that is not there; None where the gateway itself would say so
    chunked: Exchange = field(default_factory=Exchange)
    large: Exchange = field(default_factory=Exchange)
    websocket: Exchange = field(default_factory=Exchange)
    left: Left = Left(unknown="not asked")  # from a stream
    left_whole: Left = Left(unknown="not asked")  # from an answer as one body
    silence: Exchange | None = None
    silence_s: float = 0.0
