"""One environment variable as it is declared: its name, how its value is read, its default and what it means.

Decides what follows from that: the default as a value and the names beside the variable's own. Knows no variable.
"""

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from typing import Any

# What stands before the name of an instance and the field of it that a variable gives.
INSTANCE_PREFIX = "VLLM_"
FILE_SUFFIX = "_FILE"


@dataclass(frozen=True, slots=True)
class Variable:
    """What an operator may set. `meaning` is text with code spans; its first sentence can stand alone.

    `parse` turns the text into the value or raises ValueError; `default` is text as an operator would write it, "" for
    none. Without a default the value is `absent`, and documents say `otherwise`.
    """

    name: str
    parse: Callable[[str], Any]
    default: str
    _: KW_ONLY
    meaning: str
    absent: Any = None
    otherwise: str = "none"
    # May stand in a file instead, which `<name>_FILE` names.
    secret: bool = False
    # The value is the path of a file, whose content is what is meant.
    content: bool = False
    # Each instance has its own; this is what documents show for a second one, for a secret the name of its file.
    per_instance: str | None = None
    # Whoever starts gomodel for the first time needs to know it.
    first: bool = False

    @property
    def value(self) -> Any:
        """What an unset variable gives."""
        return self.parse(self.default) if self.default else self.absent

    @property
    def documented_default(self) -> str:
        """The default for people to read, as Markdown."""
        return f"`{self.default}`" if self.default else self.otherwise

    @property
    def names(self) -> tuple[str, ...]:
        """Its own name and, for a secret, the one that names a file."""
        return (self.name, self.name + FILE_SUFFIX) if self.secret else (self.name,)

    @property
    def field(self) -> str:
        """What a variable of an instance gives: `BASE_URL` of `VLLM_BASE_URL`."""
        return self.name.removeprefix(INSTANCE_PREFIX)

    def of(self, instance: str) -> str:
        """The name of the same variable for another instance: `VLLM_TEST_BASE_URL` for `TEST`."""
        return f"{INSTANCE_PREFIX}{instance}_{self.field}"


@dataclass(frozen=True, slots=True)
class Section:
    """Variables that belong together, in the order in which documents list them."""

    title: str
    variables: tuple[Variable, ...]
