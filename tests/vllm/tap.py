"""A wire tap between gomodel and vLLM: relays and remembers every byte, so that a test sees both sides of gomodel.

With it, `no byte changed` needs no masking: what vLLM sent is compared with what the client got. Knows TCP only, but
for the last step, where http.client takes the chunk framing off.
"""

import contextlib
import http.client
import io
import socket
import threading
from dataclasses import dataclass, field


@dataclass
class Conversation:
    """What went over one connection since the last forget()."""

    sent: bytearray = field(default_factory=bytearray)
    received: bytearray = field(default_factory=bytearray)
    # gomodel asks for vLLM's health on its own account, at any time and on connections of their own.
    probe: bool = False


class _Recorded:
    """Stands in for the socket http.client reads from."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def makefile(self, _mode: str) -> io.BytesIO:
        return io.BytesIO(self._content)


class Tap:
    """Listens on a loopback port and relays to another one. It cannot tell exchanges at the same time apart."""

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._conversations: list[Conversation] = []
        self._sockets: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    @property
    def port(self) -> int:
        port: int = self._listener.getsockname()[1]
        return port

    def close(self) -> None:
        # shutdown() wakes the threads that wait in accept() and recv(); close() alone would not.
        for end in [self._listener, *self._sockets]:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for end in [self._listener, *self._sockets]:
            end.close()

    def forget(self) -> None:
        for conversation in self._conversations:
            conversation.sent.clear()
            conversation.received.clear()

    def sent(self) -> bytes:
        """Everything gomodel wrote to vLLM since the last forget()."""
        return b"".join(conversation.sent for conversation in self._conversations if not conversation.probe)

    def received(self) -> bytes:
        """Everything vLLM answered since the last forget()."""
        return b"".join(conversation.received for conversation in self._conversations if not conversation.probe)

    def received_body(self) -> bytes:
        """The body of the one answer since the last forget(), without chunk framing."""
        response = http.client.HTTPResponse(_Recorded(self.received()))  # type: ignore[arg-type]
        response.begin()
        return response.read()

    def sent_body(self) -> bytes:
        """The body of the one request since the last forget(), which had a Content-Length."""
        return self.sent().partition(b"\r\n\r\n")[2]

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(("127.0.0.1", self._target_port))
            except OSError:
                near.close()
                continue
            conversation = Conversation()
            self._conversations.append(conversation)
            self._sockets |= {near, far}
            for source, sink in ((near, far), (far, near)):
                source.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                thread = threading.Thread(target=self._pump, args=(source, sink, conversation, source is near))
                self._threads.append(thread)
                thread.start()

    @staticmethod
    def _pump(source: socket.socket, sink: socket.socket, conversation: Conversation, upstream: bool) -> None:
        record = conversation.sent if upstream else conversation.received
        # Recorded before it is passed on: whoever holds an answer finds it here.
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if upstream and data.startswith(b"GET /health "):
                    conversation.probe = True
                record += data
                sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
