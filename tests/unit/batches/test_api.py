"""/v1/files and /v1/batches as OpenAI's API has them, and every way in which a call can be wrong."""

import asyncio
import errno
import json
from pathlib import Path
from typing import Any

import pytest
from aiohttp import FormData

from gomodel.batches import upload
from gomodel.batches.database import DatabaseAway
from gomodel.batches.ids import BATCH, FILE, new_id
from gomodel.http1.private_fields import OWNER

from .conftest import Caller, Store

LINES = b'{"custom_id":"a","method":"POST","url":"/v1/embeddings","body":{}}\n'
NOBODYS_FILE, NOBODYS_BATCH = FILE + "0" * 30, BATCH + "0" * 30


def form(content: bytes | None = LINES, name: str = "in.jsonl", **fields: str) -> FormData:
    found = FormData(default_to_multipart=True)
    for field, value in {"purpose": "batch", **fields}.items():
        if value:
            found.add_field(field.replace("__", "[").replace("_end", "]"), value)
    if content is not None:
        found.add_field("file", content, filename=name, content_type="application/jsonl")
    return found


async def said(calls: Caller, method: str, path: str, owner: str | None = None, **kwargs: Any) -> tuple[int, Any]:
    headers = {} if owner is None else {OWNER: owner}
    async with calls.client.request(method, path, headers=headers, **kwargs) as response:
        assert response.content_type == "application/json"
        assert "Server" not in response.headers
        return response.status, await response.json()


async def uploaded(calls: Caller, owner: str | None = None, **fields: str) -> Any:
    status, found = await said(calls, "POST", "/v1/files", owner, data=form(**fields))
    assert status == 200, found
    return found


async def created(calls: Caller, file_id: str, owner: str | None = None, **more: Any) -> Any:
    body = {"input_file_id": file_id, "endpoint": "/v1/embeddings", "completion_window": "24h", **more}
    status, found = await said(calls, "POST", "/v1/batches", owner, json=body)
    assert status == 200, found
    return found


async def test_a_file_comes_back_byte_for_byte(calls: Caller, store: Store) -> None:
    file = await uploaded(calls)
    assert file == {
        "id": file["id"],
        "object": "file",
        "bytes": len(LINES),
        "created_at": file["created_at"],
        "filename": "in.jsonl",
        "purpose": "batch",
        "status": "processed",
        "expires_at": file["created_at"] + 86400,
    }
    assert await said(calls, "GET", f"/v1/files/{file['id']}") == (200, file)
    async with calls.client.get(f"/v1/files/{file['id']}/content") as response:
        assert (response.status, await response.read()) == (200, LINES)
    assert [path.name for path in store.contents.data_dir.glob("uploads/*")] == []


@pytest.mark.parametrize(
    ("asked", "status", "found", "said_range"),
    [
        ("bytes=0-2", 206, LINES[:3], f"bytes 0-2/{len(LINES)}"),
        ("bytes=-3", 206, LINES[-3:], f"bytes {len(LINES) - 3}-{len(LINES) - 1}/{len(LINES)}"),
        ("bytes=5-", 206, LINES[5:], f"bytes 5-{len(LINES) - 1}/{len(LINES)}"),
        ("Bytes=0-99999999999999999999", 206, LINES, f"bytes 0-{len(LINES) - 1}/{len(LINES)}"),
        ("bytes=-999", 206, LINES, f"bytes 0-{len(LINES) - 1}/{len(LINES)}"),
        ("items=0-3", 200, LINES, None),
        ("bytes=3-1", 200, LINES, None),
        ("bytes=", 200, LINES, None),
        ("bytes=-", 200, LINES, None),
        ("bytes=a-b", 200, LINES, None),
        ("bytes=0-1,3-4", 200, LINES, None),
        ("bytes", 200, LINES, None),
    ],
)
async def test_a_part_of_a_content(
    calls: Caller, asked: str, status: int, found: bytes, said_range: str | None
) -> None:
    file = await uploaded(calls)
    for _ in range(2):  # the connection is good for another one
        async with calls.client.get(f"/v1/files/{file['id']}/content", headers={"Range": asked}) as response:
            assert (response.status, response.headers.get("Content-Range")) == (status, said_range)
            assert (response.content_type, await response.read()) == ("application/octet-stream", found)
            assert "Server" not in response.headers


@pytest.mark.parametrize("asked", ["bytes=-0", f"bytes={len(LINES)}-", f"bytes={len(LINES)}-{'9' * 99}"])
async def test_a_range_of_which_a_content_has_nothing_is_416(calls: Caller, asked: str) -> None:
    path = f"/v1/files/{(await uploaded(calls))['id']}/content"
    async with calls.client.get(path, headers={"Range": asked}) as response:
        assert (response.status, response.headers["Content-Range"]) == (416, f"bytes */{len(LINES)}")
        assert (await response.json())["error"]["code"] == "range_not_satisfiable"
        assert response.content_type == "application/json"
    async with calls.client.head(path, headers={"Range": asked}) as response:
        assert (response.status, response.headers["Content-Length"]) == (200, str(len(LINES)))
        etag = response.headers["ETag"]
    async with calls.client.get(path, headers={"Range": asked, "If-None-Match": etag}) as response:
        assert response.status == 304


async def test_the_head_of_a_content(calls: Caller) -> None:
    file = await uploaded(calls)
    async with calls.client.head(f"/v1/files/{file['id']}/content") as response:
        assert (response.status, response.headers["Content-Length"]) == (200, str(len(LINES)))
        assert response.headers["Accept-Ranges"] == "bytes"


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("../../etc/passwd", "passwd"),
        ("C:\\data\\in.jsonl", "in.jsonl"),
        ("/", "upload.jsonl"),
        ("..", "upload.jsonl"),
        ("", "upload.jsonl"),
        ("a\x00b\nc\x7f", "a_b_c_"),
        ("é\U0001f600.jsonl", "é\U0001f600.jsonl"),
        ("x" * 4096, "x" * 255),
        ("\udcff.jsonl", "_.jsonl"),
    ],
)
def test_a_clients_name_is_for_people_alone(name: str, shown: str) -> None:
    assert upload.shown_name(name) == shown


async def test_no_name_of_a_client_reaches_the_disk(calls: Caller, store: Store) -> None:
    file = await uploaded(calls, name="..%2f..%2fpwned")
    everything = {path.name for path in store.contents.data_dir.rglob("*") if path.is_file()}
    assert file["id"] in everything
    assert not any("pwned" in name for name in everything)


async def test_fields_may_stand_behind_the_file(calls: Caller) -> None:
    late = FormData()
    late.add_field("file", LINES, filename="in.jsonl")
    late.add_field("expires_after[seconds]", "3600")
    late.add_field("expires_after[anchor]", "created_at")
    late.add_field("purpose", "batch")
    status, file = await said(calls, "POST", "/v1/files", data=late)
    assert (status, file["expires_at"] - file["created_at"]) == (200, 3600)


@pytest.mark.parametrize(
    ("data", "status", "param", "code"),
    [
        (form(None), 400, "file", "required"),
        (form(purpose=""), 400, "purpose", "required"),
        (form(purpose="fine-tune"), 400, "purpose", "invalid_value"),
        (form(b""), 400, "file", "invalid_value"),
        (form(b"x" * 1001), 413, None, "body_too_large"),
        (form(expires_after__anchor_end="created_at"), 400, "expires_after[seconds]", "invalid_value"),
        (form(expires_after__seconds_end="3600"), 400, "expires_after[anchor]", "invalid_value"),
        (form(other="x" * 5000), 400, "other", "invalid_value"),
        ({"file": "text"}, 400, None, "invalid_body"),
        (b"--x\r\n", 400, None, "invalid_body"),
    ],
    ids=[str(number) for number in range(10)],
)
async def test_an_upload_that_is_refused_leaves_nothing(
    calls: Caller, store: Store, data: Any, status: int, param: str | None, code: str
) -> None:
    found_status, found = await said(calls, "POST", "/v1/files", data=data)
    error = found["error"]
    assert (found_status, error["param"], error["code"]) == (status, param, code)
    assert set(error) == {"message", "type", "param", "code"}
    assert [path for path in store.contents.data_dir.glob("*/*")] == []  # noqa: C416


async def test_two_files_in_one_form_are_refused(calls: Caller) -> None:
    data = form()
    data.add_field("file", LINES, filename="other")
    status, found = await said(calls, "POST", "/v1/files", data=data)
    assert (status, found["error"]["param"]) == (400, "file")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"--b",
        b"--b\r\n\r\n",
        b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nabc',
        b"--other\r\n\r\n--other--",
        b'--b\r\nContent-Disposition: form-data; name="file"\r\nContent-Transfer-Encoding: zip\r\n\r\nx\r\n--b--\r\n',
        b'--b\r\nContent-Disposition: form-data; name="file"; filename="%b"\r\n\r\nx\r\n--b--\r\n' % (b"x" * 9000),
        b'--b\r\nContent-Disposition: form-data; name="fi\x01le"; filename="a"\r\n\r\nx\r\n--b--\r\n',
        b"--b\r\nContent-Disposition\r\n\r\nx\r\n--b--\r\n",
        b"--b\r\n: x\r\n\r\nx\r\n--b--\r\n",
        b"--b\r\n" + b"A: b\r\n" * 2000 + b"\r\nx\r\n--b--\r\n",
        b"--b\r\nContent-Type: multipart/mixed; boundary=c\r\n\r\n--c\r\n\r\nx\r\n--c--\r\n--b--\r\n",
    ],
)
async def test_a_form_that_cannot_be_read_is_refused(calls: Caller, store: Store, body: bytes) -> None:
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    async with calls.client.post("/v1/files", data=body, headers=headers) as response:
        assert response.status == 400
        assert (await response.json())["error"]["type"] == "invalid_request_error"
    assert list(store.contents.data_dir.glob("*/*")) == []


@pytest.mark.parametrize("where", ["begin", "keep"])
async def test_a_full_disk_is_507_and_leaves_nothing(
    calls: Caller, store: Store, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(store.contents, where, full)
    status, found = await said(calls, "POST", "/v1/files", data=form())
    assert (status, found["error"]["code"]) == (507, "insufficient_storage")
    assert list(store.contents.data_dir.glob("*/*")) == []


async def test_an_upload_counts_only_when_the_database_has_it(
    calls: Caller, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(record: object) -> None:
        raise DatabaseAway

    monkeypatch.setattr(store.files, "add", away)
    status, found = await said(calls, "POST", "/v1/files", data=form())
    assert (status, found["error"]["code"]) == (503, "database_unavailable")
    assert list(store.contents.data_dir.glob("*/*")) == []


async def test_until_the_database_is_open_nothing_is_answered(calls: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gomodel.batches.api._OPENING_S", 0.01)
    calls.api.ready.clear()
    status, found = await said(calls, "GET", "/v1/files")
    assert (status, found["error"]["code"]) == (503, "database_unavailable")


async def test_files_are_listed_page_by_page(calls: Caller) -> None:
    ids = [(await uploaded(calls))["id"] for _ in range(5)]
    _status, page = await said(calls, "GET", "/v1/files?limit=2")
    assert ([each["id"] for each in page["data"]], page["has_more"]) == ([ids[4], ids[3]], True)
    assert (page["first_id"], page["last_id"]) == (ids[4], ids[3])
    _, page = await said(calls, "GET", f"/v1/files?limit=3&after={ids[3]}")
    assert ([each["id"] for each in page["data"]], page["has_more"]) == ([ids[2], ids[1], ids[0]], False)
    _, page = await said(calls, "GET", f"/v1/files?order=asc&limit=2&after={ids[0]}")
    assert [each["id"] for each in page["data"]] == [ids[1], ids[2]]
    _, page = await said(calls, "GET", "/v1/files?purpose=batch_output")
    assert page == {"object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False}


async def test_a_deleted_file_is_gone(calls: Caller, store: Store) -> None:
    file_id = (await uploaded(calls))["id"]
    status, found = await said(calls, "DELETE", f"/v1/files/{file_id}")
    assert (status, found) == (200, {"id": file_id, "object": "file", "deleted": True})
    assert calls.changes == 1
    for method, path in (("GET", ""), ("GET", "/content"), ("DELETE", "")):
        assert (await said(calls, method, f"/v1/files/{file_id}{path}"))[0] == 404
    assert (await said(calls, "GET", "/v1/files"))[1]["data"] == []
    assert await store.files.to_free() == [file_id]


async def test_a_deleted_file_is_kept_for_the_batch_that_reads_it(calls: Caller, store: Store) -> None:
    file_id = (await uploaded(calls))["id"]
    batch = await created(calls, file_id)
    await said(calls, "DELETE", f"/v1/files/{file_id}")
    assert await store.files.to_free() == []
    work = await store.batches.claim([])
    assert work is not None
    assert work.id == batch["id"]
    assert await store.batches.finish(work, "cancelled", None, None, None)
    assert await store.files.to_free() == [file_id]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", f"/v1/files/{NOBODYS_FILE}"),
        ("GET", f"/v1/files/{NOBODYS_FILE}/content"),
        ("DELETE", f"/v1/files/{NOBODYS_FILE}"),
        ("GET", "/v1/files/file-abc"),
        ("GET", "/v1/files/..%2F..%2Fgomodel.sqlite3/content"),
        ("GET", "/v1/files/%00/content"),
        ("GET", "/v1/files/" + "x" * 4096),
        ("GET", f"/v1/batches/{NOBODYS_BATCH}"),
        ("POST", f"/v1/batches/{NOBODYS_BATCH}/cancel"),
        ("GET", "/v1/batches/batch_abc"),
        ("POST", "/v1/batches/%27;drop/cancel"),
        ("GET", f"/v1/batches/{NOBODYS_FILE}"),
    ],
)
async def test_what_is_not_there_is_404(calls: Caller, method: str, path: str) -> None:
    status, found = await said(calls, method, path)
    assert (status, found["error"]["param"], found["error"]["code"]) == (404, "id", "not_found")
    assert len(found["error"]["message"]) < 100


async def test_a_batch_is_made_and_shown(calls: Caller) -> None:
    file_id = (await uploaded(calls))["id"]
    batch = await created(calls, file_id, metadata={"a": "b"})
    assert calls.changes == 1
    assert batch["object"] == "batch"
    assert (batch["status"], batch["endpoint"], batch["input_file_id"]) == ("validating", "/v1/embeddings", file_id)
    assert batch["expires_at"] - batch["created_at"] == 86400
    assert batch["request_counts"] == {"total": 0, "completed": 0, "failed": 0}
    assert batch["metadata"] == {"a": "b"}
    assert await said(calls, "GET", f"/v1/batches/{batch['id']}") == (200, batch)
    assert (await said(calls, "GET", "/v1/batches"))[1]["data"] == [batch]


async def test_batches_are_listed_newest_first(calls: Caller) -> None:
    file_id = (await uploaded(calls))["id"]
    ids = [(await created(calls, file_id))["id"] for _ in range(3)]
    _, page = await said(calls, "GET", "/v1/batches?limit=2")
    assert ([each["id"] for each in page["data"]], page["has_more"]) == ([ids[2], ids[1]], True)
    _, page = await said(calls, "GET", f"/v1/batches?after={ids[1]}")
    assert ([each["id"] for each in page["data"]], page["has_more"]) == ([ids[0]], False)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ("{", None),
        (
            json.dumps({"input_file_id": NOBODYS_FILE, "endpoint": "/v1/embeddings", "completion_window": "24h"}),
            "input_file_id",
        ),
        (json.dumps({"input_file_id": NOBODYS_FILE, "endpoint": "/other", "completion_window": "24h"}), "endpoint"),
        ("x" * 300_000, None),
    ],
    ids=["no JSON", "no such file", "no such endpoint", "too large"],
)
async def test_a_batch_that_cannot_be_is_refused(calls: Caller, body: str, param: str | None) -> None:
    status, found = await said(calls, "POST", "/v1/batches", data=body)
    assert (status, found["error"]["param"], found["error"]["type"]) == (400, param, "invalid_request_error")
    assert calls.changes == 0


async def test_a_batch_is_cancelled_once_and_not_after_its_end(calls: Caller, store: Store) -> None:
    batch = await created(calls, (await uploaded(calls))["id"])
    for _ in range(2):
        status, found = await said(calls, "POST", f"/v1/batches/{batch['id']}/cancel")
        assert (status, found["status"], found["cancelling_at"] is None) == (200, "cancelling", False)
    work = await store.batches.claim([])
    assert work is not None
    assert await store.batches.finish(work, "completed", None, None, None)
    status, found = await said(calls, "POST", f"/v1/batches/{batch['id']}/cancel")
    assert (status, found["error"]["code"]) == (400, "batch_over")


async def test_a_key_sees_what_is_its_own(calls: Caller) -> None:
    file_id = (await uploaded(calls, "alice"))["id"]
    batch_id = (await created(calls, file_id, "alice"))["id"]
    for owner, status in (("alice", 200), ("bob", 404), ("alice%20", 404), (None, 200)):
        paths = (f"/v1/files/{file_id}", f"/v1/batches/{batch_id}")
        assert [(await said(calls, "GET", path, owner))[0] for path in paths] == [status, status]
        shown = [len((await said(calls, "GET", path, owner))[1]["data"]) for path in ("/v1/files", "/v1/batches")]
        assert shown == [status == 200] * 2
    body = {"input_file_id": file_id, "endpoint": "/v1/embeddings", "completion_window": "24h"}
    assert (await said(calls, "POST", "/v1/batches", "bob", json=body))[0] == 400
    assert (await said(calls, "POST", f"/v1/batches/{batch_id}/cancel", "bob"))[0] == 404
    assert (await said(calls, "DELETE", f"/v1/files/{file_id}", "bob"))[0] == 404
    assert (await said(calls, "GET", f"/v1/batches/{batch_id}", "alice"))[1]["status"] == "validating"


async def test_a_name_of_any_letters_owns_things(calls: Caller) -> None:
    file_id = (await uploaded(calls, "m%C3%BCller"))["id"]
    assert (await said(calls, "GET", f"/v1/files/{file_id}", "m%C3%BCller"))[0] == 200
    assert (await said(calls, "GET", f"/v1/files/{file_id}", "m%C3%BBller"))[0] == 404


async def test_an_upload_that_breaks_off_leaves_nothing(calls: Caller, store: Store) -> None:
    server = calls.client.server
    assert server.port is not None
    _, writer = await asyncio.open_connection("127.0.0.1", server.port)
    head = b"POST /v1/files HTTP/1.1\r\nHost: x\r\nContent-Length: 900\r\n"
    head += b"Content-Type: multipart/form-data; boundary=b\r\n\r\n"
    writer.write(head + b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nabc')
    uploads = store.contents.data_dir / "uploads"
    async with asyncio.timeout(5):
        while not list(uploads.iterdir()):  # noqa: ASYNC110 - what happens happens on disk
            await asyncio.sleep(0.01)
        writer.close()
        await writer.wait_closed()
        while list(uploads.iterdir()):  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def test_an_id_sorts_behind_those_before_it(tmp_path: Path) -> None:
    ids = [new_id(FILE) for _ in range(1000)]
    assert len(set(ids)) == 1000
    assert [each[:19] for each in ids] == sorted(each[:19] for each in ids)
