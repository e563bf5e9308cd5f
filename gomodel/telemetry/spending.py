"""What the requests of one key for one model at one instance took, in sums. Decides which requests took something."""

from .record import Phase, Record
from .usage import Usage

_OK = 200


class Spending:
    """Sums since the start of the process."""

    __slots__ = ("audio_s", "cached", "completion", "known", "measured", "prompt", "seconds", "unknown")

    def __init__(self) -> None:
        self.known = 0  # requests that say what they took
        self.unknown = 0  # and those that do not
        self.prompt = 0
        self.cached = 0  # of the prompt
        self.measured = 0  # tokens of prompts of which it is known how much was cached
        self.completion = 0
        self.audio_s = 0.0
        self.seconds = 0.0  # that they ran

    def add(self, usage: Usage | None, seconds: float) -> None:
        """One more request, which ran for so long."""
        self.seconds += seconds
        if usage is None:
            self.unknown += 1
            return
        self.known += 1
        self.prompt += usage.prompt
        self.completion += usage.completion
        if usage.cached is not None:
            self.cached += usage.cached
            self.measured += usage.prompt
        self.audio_s += usage.audio_s


def worked(record: Record) -> bool:
    """Whether an instance did something for a request that it may have said nothing of."""
    return record.status == _OK or (record.ended_by != "" and record.phase >= Phase.HEAD)
