"""What was asked, in one form for the three dialects (OpenAI chat, OpenAI responses, Anthropic messages).

Here is decided how a conversation reads as one prompt, and which tool, if any, an answer calls.
"""

from dataclasses import dataclass
from typing import Any

from .body import objects
from .errors import ApiError, bad_parameter, dumps
from .schema import instance
from .text import OPENING


@dataclass(frozen=True)
class Message:
    """One turn; `role` is system, user, assistant or tool."""

    role: str
    text: str


@dataclass(frozen=True)
class Tool:
    """A function that the answer may call; `schema` is that of its arguments."""

    name: str
    schema: Any

    def asked_for(self, said: str) -> bool:
        """Whether `said` has a long word of the tool's name in it: "weather" for get_weather."""
        return any(word in said.lower() for word in self.name.lower().split("_") if len(word) > 3)


@dataclass(frozen=True)
class Conversation:
    """`called` is the tool that the answer calls; `dictated` the answer's text, where a schema decides it."""

    messages: tuple[Message, ...]
    called: Tool | None = None
    dictated: str | None = None

    @property
    def prompt(self) -> str:
        turns = (f"<|{message.role}|>\n{message.text}<|end|>\n" for message in self.messages)
        return "".join(turns) + "<|assistant|>\n"


def read_tools(given: list[Any] | None, where: str, schema: str = "parameters") -> tuple[Tool, ...]:
    """The functions of a request, whose arguments are described in the field `schema`. Raises ValidationFailed."""
    return tuple(Tool(tool["name"], tool[schema]) for tool in objects(given, where, "name"))


def choose(tools: tuple[Tool, ...], choice: str | None, named: str | None, last: Message) -> Tool | None:
    """The tool to call: the named one, any when one is required, else one that the `last` message asks for.

    Raises ApiError when `tools` do not have what is wanted.
    """
    if named is not None:
        for tool in tools:
            if tool.name == named:
                return tool
        message = "The tool specified in `tool_choice` does not match any of the specified `tools`"
        raise bad_parameter(message, "tool_choice")
    if choice not in (None, "none", "auto", "required"):
        message = f"Invalid value for `tool_choice`: {choice}!"
        raise bad_parameter(f'{message} Only named tools, "none", "auto" or "required" are supported.', "tool_choice")
    if choice in ("auto", "required") and not tools:
        raise bad_parameter("When using `tool_choice`, `tools` must be set.", "tool_choice")
    if choice == "none":
        return None
    asked_for = (tool for tool in tools if last.role == "user" and tool.asked_for(last.text))
    return next(asked_for, tools[0] if choice == "required" else None)


def plain_text(content: Any) -> str:
    """The text of a message's content: a string, or parts of which the media ones are one token each."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise ApiError("The content of a message must be a string or a list of parts.")
    texts = [part.get("text") if isinstance(part, dict) else part for part in content]
    return "\n".join(text if isinstance(text, str) else "<|media|>" for text in texts)


def dictated(called: Tool | None, response_format: dict[str, Any] | None) -> str | None:
    """The arguments of the tool that is `called`, else the answer that a response format demands. Raises ApiError."""
    given = response_format or {}
    if called is not None:
        schema = called.schema or {"type": "object"}
    elif given.get("type") == "json_object":
        return dumps({"simulated": True, "answer": OPENING}).decode()
    elif given.get("type") == "json_schema":
        nested = given.get("json_schema", given)  # chat nests name and schema, /v1/responses does not
        schema = nested.get("schema") if isinstance(nested, dict) else None
        if schema is None:
            message = "When response_format type is 'json_schema', the 'json_schema' field must be provided."
            raise bad_parameter(message, "response_format")
    else:
        return None
    try:
        return dumps(instance(schema)).decode()
    except ValueError as error:
        raise ApiError(f"The simulation cannot satisfy the schema: {error}.") from None
