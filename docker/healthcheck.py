"""The image's HEALTHCHECK: exit 0 when the gateway in this container answers GET /health with 200, else 1.

Decides only where the listener is, from the environment the container was given over the .env file of its working
directory; what is wrong elsewhere in that file is the gateway's to say. Liveness, not readiness: restarting a gateway
does not bring back a vLLM. Runs every few seconds, so it imports nothing heavy that it can do without.
"""

import os
import socket
import sys
from collections.abc import Mapping
from pathlib import Path

TIMEOUT_S = 2.0
_ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "localhost"}


def settings(environ: Mapping[str, str], dotenv_path: Path) -> Mapping[str, str]:
    """What the gateway reads: `environ` over the file, if there is one."""
    if not dotenv_path.exists():
        return environ
    from gomodel.config.dotenv_file import read  # noqa: PLC0415 - half of the run time, and most containers have no such file

    return {**read(dotenv_path, environ).values, **environ}


def connect(environ: Mapping[str, str]) -> socket.socket:
    """A connection to the listener that `environ` describes. Raises OSError."""
    path, port = environ.get("GOMODEL_UNIX_SOCKET"), environ.get("PORT")
    if path and not port:
        sock = socket.socket(socket.AF_UNIX)
        try:
            sock.settimeout(TIMEOUT_S)
            sock.connect(path)
        except OSError:
            sock.close()
            raise
        return sock
    host = (environ.get("HOST") or "localhost").strip("[]")
    sock = socket.create_connection((_ANY_ADDRESS.get(host, host), int(port or 8080)), TIMEOUT_S)
    if environ.get("TLS_CERT_FILE"):
        import ssl  # noqa: PLC0415 - a third of the run time, and most containers leave TLS to what is in front

        context = ssl.create_default_context()
        # It talks to itself; the certificate names somebody else's idea of this host.
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context.wrap_socket(sock)
    return sock


def healthy(environ: Mapping[str, str]) -> bool:
    """Whether /health says 200 in time."""
    base = (environ.get("BASE_PATH") or "").rstrip("/")
    question = f"GET {base}/health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    try:
        with connect(environ) as sock:
            sock.sendall(question.encode())
            with sock.makefile("rb") as answer:
                return answer.readline(64).startswith(b"HTTP/1.1 200 ")
    except OSError as error:
        print(type(error).__name__, error.strerror or "", file=sys.stderr)
        return False
    except ValueError:
        print("PORT is no number", file=sys.stderr)
        return False


if __name__ == "__main__":
    sys.exit(0 if healthy(settings(os.environ, Path(".env"))) else 1)
