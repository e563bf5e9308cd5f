"""Callers with keys of their own: a gateway with a keys file, and what each of them sends."""

import json
from dataclasses import replace
from hashlib import sha256

import pytest

from gomodel.config.keys_file import parse

from .scripted import request
from .verdicts import CHAT

MASTER = "sk-master-0123456789"
ALICE, BOB = "sk-alice-0123456789", "sk-bob-0123456789"


def entry(name, key, **fields):
    said = {"sha256": sha256(key.encode()).hexdigest(), **fields}
    return f'[keys."{name}"]\n' + "".join(f"{name} = {json.dumps(value)}\n" for name, value in said.items())


@pytest.fixture
def keyed(gateway, tmp_path):
    """`await keyed(text, vllm=...)`: a gateway with the master key and this keys file."""

    async def start(text, **environ):
        path = tmp_path / "keys.toml"
        path.write_text(text)
        return await gateway(**{"GOMODEL_MASTER_KEY": MASTER, "GOMODEL_KEYS_FILE": str(path), **environ})

    return start


def take(handle, text):
    """What the watch of the file does when it has another content."""
    gateway = handle.gateway
    gateway.take_keys(replace(gateway.config.keys, entries=parse(text.encode())), broken=False)


def chat(key, model="vllm/m", path=CHAT, headers=(), *, late=False):
    """A request whose body comes with its head; `late`: in chunks, which has to be waited for."""
    fields = [("Authorization", f"Bearer {key}"), ("Content-Type", "application/json"), *headers]
    body = json.dumps({"model": model}).encode()
    if late:
        fields.append(("Transfer-Encoding", "chunked"))
        return request("POST", path, fields) + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    return request("POST", path, fields, body)


def get(key, path):
    return request("GET", path, [("Authorization", f"Bearer {key}")])
