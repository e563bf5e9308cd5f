"""The simulated vLLM's pure rules: tokens, words, schemas, limits."""

import json
import math
import re
from typing import Any

import pytest

from gomodel.simulator import tokens
from gomodel.simulator.answer import Limits, continue_text, converse
from gomodel.simulator.conversation import Conversation, Message, Tool, choose, dictated
from gomodel.simulator.embeddings import vector
from gomodel.simulator.schema import instance
from gomodel.simulator.text import OPENING

TEXTS = [
    "",
    "Hello there, what is the weather?",
    "  leading and  double spaces\n\n\tand tabs ",
    "internationalisation " * 3,
    "naïve café — 你好，世界！ 🎉👩‍👩‍👧",
    "<|user|> looks like a special token <|nope|",
    "_snake_case_ 1234567890 a.b.c",
    "\x00\x01 control",
]


@pytest.mark.parametrize("text", TEXTS)
def test_tokens_round_trip_and_are_counted_alike_everywhere(text: str) -> None:
    ids = tokens.encode(text)
    assert tokens.decode(ids) == text
    assert "".join(tokens.split(text)) == text
    assert len(ids) == tokens.count(text)
    assert all(0 <= number < 2**53 for number in ids)


def test_words_of_the_simulation_are_one_token_each() -> None:
    assert tokens.count(OPENING) == 11  # nine words, a colon and a full stop


@pytest.mark.parametrize(("number", "text"), [(999, ""), (2**60, ""), (0, "<|system|>")])
def test_ids_outside_of_the_vocabulary_are_no_text(number: int, text: str) -> None:
    assert tokens.decode([number]) == text


def test_a_broken_character_decodes_to_the_replacement_character() -> None:
    (whole,) = tokens.encode("é")
    assert tokens.decode([whole - 1024 >> 8 | 1024]) != "é"
    assert tokens.decode([1024 + 0x1C3]) == "\ufffd"


@pytest.mark.parametrize("tokens_wanted", [1, 2, 11, 12, 40, 300])
def test_max_tokens_is_kept_exactly(tokens_wanted: int) -> None:
    answer = continue_text(
        "internationalisation", "internationalisation", 1, Limits(tokens_wanted, min_tokens=tokens_wanted)
    )
    assert (answer.tokens, answer.finish) == (tokens_wanted, "length")
    assert tokens.count(answer.text) == tokens_wanted


def test_the_same_prompt_gives_the_same_words_and_another_prompt_others() -> None:
    def said(prompt: str, variant: int = 0) -> str:
        return continue_text(prompt, prompt, 3, Limits(), variant=variant).text

    assert said("about rivers") == said("about rivers")
    assert len({said("about rivers"), said("about mountains"), said("about rivers", 1)}) == 3
    assert said("about rivers").startswith(OPENING + " ")
    assert "rivers" in said("about rivers")


@pytest.mark.parametrize(
    ("limits", "text", "stop_reason"),
    [
        (Limits(stop=("simulated",)), "This is a ", "simulated"),
        (Limits(stop=("a sim", "This is")), "", "This is"),
        (Limits(stop=(" a simu",)), "This is", " a simu"),
        (Limits(stop=("ted answer: n",)), "This is a simula", "ted answer: n"),
    ],
)
def test_a_stop_string_ends_the_answer_before_itself(limits: Limits, text: str, stop_reason: str) -> None:
    answer = continue_text("x", "x", 1, limits)
    assert (answer.text, answer.finish, answer.stop_reason) == (text, "stop", stop_reason)


def test_a_stop_string_that_never_comes_changes_nothing() -> None:
    assert continue_text("x", "x", 1, Limits(stop=("\x07",))) == continue_text("x", "x", 1, Limits())


def test_min_tokens_lengthens_an_answer() -> None:
    assert continue_text("x", "x", 1, Limits(min_tokens=500)).tokens >= 500


WEATHER = Tool("get_weather", None)
MAIL = Tool("send_mail", {"type": "object"})


@pytest.mark.parametrize(
    ("choice", "named", "role", "said", "called"),
    [
        ("none", None, "user", "get_weather", None),
        ("auto", None, "user", "Hello", None),
        (None, None, "user", "What is the Weather in Rome?", WEATHER),
        ("auto", None, "user", "please SEND_MAIL", MAIL),
        ("auto", None, "user", "please send mail", MAIL),
        ("auto", None, "tool", "weather: sunny", None),
        ("required", None, "user", "Hello", MAIL),
        ("required", None, "user", "weather", WEATHER),
        (None, "get_weather", "user", "Hello", WEATHER),
    ],
)
def test_a_tool_is_called_when_it_must_be_or_when_it_is_asked_for(
    choice: str | None, named: str | None, role: str, said: str, called: Tool | None
) -> None:
    tool = choose((MAIL, WEATHER), choice, named, Message(role, said))
    assert tool == called
    asked = Conversation((Message(role, said),), tool, dictated(tool, None))
    assert converse(asked, 10, Limits()).tool == called
    assert (converse(asked, 10, Limits()).text == "{}") == (called is not None)


SCHEMAS: list[tuple[Any, Any]] = [
    (True, "demo"),
    ({}, "demo"),
    ({"type": "string"}, "demo"),
    ({"type": "string", "maxLength": 2}, "de"),
    ({"type": "string", "minLength": 6}, "demoaa"),
    ({"enum": ["celsius", "fahrenheit"]}, "celsius"),
    ({"const": None}, None),
    ({"type": "integer"}, 1),
    ({"type": "integer", "minimum": 2.5}, 3),
    ({"type": "integer", "exclusiveMinimum": 3}, 4),
    ({"type": "integer", "maximum": -3}, -3),
    ({"type": "number", "minimum": 0.25, "maximum": 0.75}, 0.25),
    ({"type": "boolean"}, True),
    ({"type": "null"}, None),
    ({"type": ["string", "null"]}, "demo"),
    ({"type": "array", "items": {"type": "integer"}}, []),
    ({"type": "array", "items": {"type": "integer"}, "minItems": 2}, [1, 1]),
    ({"type": "object"}, {}),
    (
        {"properties": {"city": {"type": "string"}, "days": {"type": "integer"}}, "required": ["city"]},
        {"city": "Paris"},
    ),
    ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, 1),
    ({"oneOf": [{"$ref": "#/$defs/n"}], "$defs": {"n": {"type": "integer", "minimum": 9}}}, 9),
    ({"allOf": [{"$ref": "#/$defs/n"}], "$defs": {"n": {"enum": ["x"]}}}, "x"),
    (
        {
            "$ref": "#/$defs/node",
            "$defs": {
                "node": {
                    "type": "object",
                    "required": ["next"],
                    "properties": {"next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}},
                }
            },
        },
        {"next": None},
    ),
]


@pytest.mark.parametrize(("schema", "value"), SCHEMAS, ids=[json.dumps(schema)[:60] for schema, _ in SCHEMAS])
def test_a_schema_gets_a_small_plain_value(schema: Any, value: Any) -> None:
    assert instance(schema) == value


@pytest.mark.parametrize(
    "schema",
    [
        False,
        5,
        {"$ref": "#/$defs/missing"},
        {"$ref": "https://example.com/schema"},
        {"$ref": "#"},
        {"type": "wizard"},
        {"type": "array", "minItems": 10**9},
        {"type": "array", "minItems": "x"},
        {"type": "integer", "minimum": "x"},
        {"type": "integer", "minimum": float("inf")},
        {"type": "object", "required": 5},
        {"anyOf": []},
        {"type": "object", "required": ["a", "b"], "properties": {"a": {"$ref": "#"}, "b": {"$ref": "#"}}},
    ],
)
def test_a_schema_without_a_small_value_is_refused(schema: Any) -> None:
    with pytest.raises(ValueError, match=r"schema|type"):
        instance(schema)


def test_vectors_have_unit_length_and_texts_that_share_words_are_nearer() -> None:
    assert math.isclose(math.hypot(*vector("a few words")), 1.0, rel_tol=1e-6)
    assert math.isclose(math.hypot(*vector("")), 1.0, rel_tol=1e-6)
    assert vector("same") == vector("same")
    cat = vector("the cat sat")
    near, far = math.dist(cat, vector("the cat stood")), math.dist(cat, vector("quantum flux"))
    assert 0 < near < far


def test_no_sentence_of_the_simulation_has_an_unfilled_place() -> None:
    said = continue_text("rivers", "rivers", 1, Limits(2000, min_tokens=2000)).text
    assert not re.search(r"[{}]", said)
