"""What was asked, in one form for the three dialects (OpenAI chat, OpenAI responses, Anthropic messages).

Decides how a conversation reads as one prompt and which tool, if any, an answer calls. Knows nothing of any
dialect's fields.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from .errors import BadRequest, bad_parameter, dumps
from .schema import Unsatisfiable, instance


@dataclass(frozen=True)
class Message:
    """One turn; `role` is system, user, assistant or tool."""

    role: str
    text: str


@dataclass(frozen=True)
class Tool:
    """A function that the answer may call; `schema` is that of its arguments."""

    name: str
    description: str
    schema: Any

    def arguments(self) -> str:
        """JSON arguments that the schema accepts; raises BadRequest."""
        try:
            return dumps(instance(self.schema or {"type": "object"})).decode()
        except Unsatisfiable as error:
            raise BadRequest(f"The simulation cannot fill the parameters of {self.name!r}: {error}.") from None


@dataclass(frozen=True)
class Conversation:
    """`choice` is none, auto, required or named (then `named` says which); `structured` is the whole answer when a
    response format decides it.
    """

    messages: tuple[Message, ...]
    tools: tuple[Tool, ...] = ()
    choice: str = "none"
    named: str | None = None
    structured: str | None = None
    prompt: str = field(init=False, repr=False)

    def __post_init__(self) -> None:
        parts = [f"<|{message.role}|>\n{message.text}<|end|>\n" for message in self.messages]
        if self.tools and self.choice != "none":
            listed = [{"name": t.name, "description": t.description, "parameters": t.schema} for t in self.tools]
            parts.insert(0, f"<|tools|>\n{dumps(listed).decode()}<|end|>\n")
        object.__setattr__(self, "prompt", "".join(parts) + "<|assistant|>\n")

    @property
    def last(self) -> Message:
        return self.messages[-1]

    def tool(self) -> Tool | None:
        """The tool that the answer calls: the named one, any when one is required, else one that is asked for."""
        if self.choice == "named":
            return next(tool for tool in self.tools if tool.name == self.named)
        if self.choice == "none" or not self.tools:
            return None
        asked_for = next((tool for tool in self.tools if self._asks_for(tool)), None)
        return asked_for or (self.tools[0] if self.choice == "required" else None)

    def _asks_for(self, tool: Tool) -> bool:
        """The user's last message has the tool's name in it, or wants the weather from a tool that has it."""
        if self.last.role != "user":
            return False
        said = self.last.text.lower()
        name = tool.name.lower()
        weather = "weather" in said and "weather" in f"{name} {tool.description.lower()}"
        return weather or name in said or name.replace("_", " ") in said


def choose(tools: tuple[Tool, ...], choice: str | None, named: str | None) -> tuple[str, str | None]:
    """The tool choice and the named tool, checked against `tools` as vLLM does; raises BadRequest."""
    if named is not None:
        if all(tool.name != named for tool in tools):
            message = "The tool specified in `tool_choice` does not match any of the specified `tools`"
            raise bad_parameter(message, "tool_choice")
        return "named", named
    if choice in ("auto", "required") and not tools:
        raise bad_parameter("When using `tool_choice`, `tools` must be set.", "tool_choice")
    if choice not in (None, "none", "auto", "required"):
        message = f"Invalid value for `tool_choice`: {choice}!"
        raise bad_parameter(f'{message} Only named tools, "none", "auto" or "required" are supported.', "tool_choice")
    return choice or ("auto" if tools else "none"), None


def plain_text(content: Any) -> str:
    """The text of a message's content: a string, or parts of which the media ones are one token each."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, Iterable) and not isinstance(content, dict):
        return "\n".join(part if isinstance(part, str) else _part_text(part) for part in content)
    raise BadRequest("The content of a message must be a string or a list of parts.")


def _part_text(part: Any) -> str:
    text = part.get("text", part.get("refusal")) if isinstance(part, dict) else None
    return text if isinstance(text, str) else "<|media|>"


def structured_text(response_format: dict[str, Any] | None, outputs: dict[str, Any] | None = None) -> str | None:
    """The answer that a response format or vLLM's `structured_outputs` demands, None when they demand nothing.

    Raises BadRequest.
    """
    if outputs and outputs.get("choice"):
        return str(outputs["choice"][0])
    schema: Any = outputs.get("json") if outputs else None
    kind = (response_format or {}).get("type", "text")
    if kind == "json_object":
        return dumps({"simulated": True, "answer": "This is a simulated answer: no model is running."}).decode()
    if kind == "json_schema" and response_format is not None:
        # chat nests name and schema, /v1/responses does not
        nested = response_format.get("json_schema", response_format)
        schema = nested.get("schema") if isinstance(nested, dict) else None
        if schema is None:
            message = "When response_format type is 'json_schema', the 'json_schema' field must be provided."
            raise bad_parameter(message, "response_format")
    elif kind != "text":
        raise bad_parameter(f"Invalid response_format type: {kind}.", "response_format")
    if schema is None:
        return None
    try:
        return dumps(instance(schema)).decode()
    except Unsatisfiable as error:
        raise bad_parameter(f"The simulation cannot satisfy the schema: {error}.", "response_format") from None
