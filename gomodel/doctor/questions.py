"""What the doctor asks: bodies whose answers show what was changed on the way. Pure.

Decides prompts, fields and lengths. All is greedy, seeded and of a fixed length, so that answers can be compared.
"""

import json

# Its letters are of one, two, three and four bytes: what breaks an encoding changes the prompt's tokens.
PROMPT = "Count na\u00efve \u6771\u4eac \U0001f680 from one to ten, in words."
_NO_MODEL = "gomodel-doctor-no-such-model"


def chat(model: str, tokens: int, **more: object) -> bytes:
    """A chat whose answer has `tokens` tokens; `more` fields of it."""
    messages = [{"role": "user", "content": PROMPT}]
    body = {"model": model, "messages": messages, "max_tokens": tokens, "temperature": 0, "seed": 7}
    return _dumps({**body, "ignore_eos": True, **more})


def stream(model: str, tokens: int) -> bytes:
    """The same as events, with their usage at the end."""
    return chat(model, tokens, stream=True, stream_options={"include_usage": True})


def fields(model: str) -> bytes:
    """Its answer has what each of these fields asks for; a gateway that drops one drops that."""
    return chat(model, 2, logprobs=True, top_logprobs=2, return_token_ids=True)


def mistyped(model: str) -> bytes:
    """vLLM refuses it and repeats each bad value, ten of them at most."""
    bad = {"max_tokens": "seven", "temperature": "warm", "top_p": "most", "seed": "lucky", "n": "two"}
    return _dumps({"model": model, "messages": [{"role": "user", "content": PROMPT}], **bad, "ignore_eos": "perhaps"})


def missing(model: str) -> bytes:
    """vLLM refuses it and says how many fields it got."""
    return _dumps({"model": model, "max_tokens": 3, "temperature": 0, "gomodel_doctor": "unknown to all"})


def refused(model: str) -> bytes:
    """vLLM refuses it with 400."""
    return _dumps({"model": model, "messages": [{"role": "user", "content": PROMPT}], "max_tokens": -3})


def no_such_model(model: str, direct: str) -> str | None:
    """A model that no engine has, named so that the question still reaches the engine of `model`.

    None where nothing in the name says which engine is meant.
    """
    if model == direct:
        return _NO_MODEL
    prefix = model.removesuffix(direct)
    return prefix + _NO_MODEL if prefix.endswith("/") else None


def large(model: str, size_bytes: int) -> bytes:
    """A short chat of this size: vLLM passes over fields that it does not know."""
    return chat(model, 1, gomodel_doctor_padding="x" * size_bytes)


def _dumps(body: object) -> bytes:
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
