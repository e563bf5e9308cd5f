"""Forms as an SDK writes them, and the requests that carry them: bytes written by hand, for tests about bytes."""

from .scripted import request

PATH = "/v1/audio/transcriptions"
WAV = b'RIFF\r\n--b\r\nContent-Disposition: form-data; name="model"\r\n\r\nvllm-b/decoy\r\n\x00\xff{"model":"vllm-b/x"}'


def part(name, content, boundary, filename=None, extra=b""):
    disposition = f'form-data; name="{name}"' + (f'; filename="{filename}"' if filename else "")
    return f"--{boundary}\r\nContent-Disposition: {disposition}\r\n".encode() + extra + b"\r\n" + content + b"\r\n"


def form(model, where="last", boundary="b0undary", wav=WAV):
    """A form as an SDK writes it, with the model first, in the middle or last; None leaves it out."""
    parts = [
        part("file", wav, boundary, "a.wav", b"Content-Type: audio/wav\r\n"),
        part("response_format", b"json", boundary),
    ]
    if model is not None:
        field = part("model", model.encode(), boundary)
        parts.insert({"first": 0, "middle": 1, "last": 2}[where], field)
    return b"".join(parts) + f"--{boundary}--\r\n".encode()


def post(body, boundary="b0undary", path=PATH, headers=()):
    """`body` is bytes, a list of chunks, or an int: only the head, with this Content-Length."""
    content_type = ("Content-Type", f'multipart/form-data; boundary="{boundary}"')
    if isinstance(body, int):
        return request("POST", path, [content_type, ("Content-Length", str(body)), *headers])
    return request("POST", path, [content_type, *headers], body)
