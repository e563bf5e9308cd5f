"""A PostgreSQL of the tests' own: Debian's package, started in an empty directory as a user that is not root.

Where there is none a test is skipped and says what to install.
"""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_BINARIES = "/usr/lib/postgresql/*/bin"
_START_S = 30.0


class PostgreSQL:
    """A server that can be stopped and started again; `url` is a fresh database each time it is asked for."""

    def __init__(self, binaries: Path, directory: str, user: str | None) -> None:
        self._binaries = binaries
        self.directory = self._directory = directory
        self._user = user
        self._count = 0
        self._process: subprocess.Popen[bytes] | None = None
        with socket.create_server(("127.0.0.1", 0)) as sock:
            self.port = int(sock.getsockname()[1])
        self._run("initdb", "-D", f"{directory}/data", "-A", "trust", "-U", "gomodel", "--no-sync", "--no-instructions")
        self.start()

    def _run(self, name: str, *arguments: str) -> None:
        command = [str(self._binaries / name), *arguments]
        done = subprocess.run(command, user=self._user, cwd=self._directory, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr.decode()

    def start(self) -> None:
        """Start it, and return when it answers."""
        options = ["-p", str(self.port), "-k", self._directory, "-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"]
        self._process = subprocess.Popen(
            [str(self._binaries / "postgres"), "-D", f"{self._directory}/data", *options],
            user=self._user,
            cwd=self._directory,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        until = time.monotonic() + _START_S
        while time.monotonic() < until:
            ready = [
                str(self._binaries / "pg_isready"),
                "-q",
                "-h",
                "127.0.0.1",
                "-p",
                str(self.port),
                "-d",
                "postgres",
            ]
            if subprocess.run(ready, check=False).returncode == 0:
                return
            time.sleep(0.05)
        raise AssertionError("PostgreSQL does not start")

    def stop(self) -> None:
        """Stop it now, whoever is connected."""
        if self._process is not None:
            self._process.send_signal(3)  # SIGQUIT: at once
            self._process.wait()
            self._process = None

    def database(self) -> str:
        """The URL of a new database."""
        self._count += 1
        name = f"test{self._count}"
        self._run("createdb", "-h", "127.0.0.1", "-p", str(self.port), "-U", "gomodel", name)
        return f"postgresql://gomodel@127.0.0.1:{self.port}/{name}"


@contextmanager
def postgresql() -> Iterator[PostgreSQL]:
    """One that runs; skips the test where there is none."""
    found = sorted(Path("/").glob(f"{_BINARIES[1:]}/initdb"))
    if not found:
        pytest.skip("no PostgreSQL here: apt-get install postgresql")
    user = None
    directory = tempfile.mkdtemp(prefix="gomodel-postgresql-")
    if os.geteuid() == 0:
        user = "postgres"  # which the package has made
        entry = pwd.getpwnam(user)
        os.chown(directory, entry.pw_uid, entry.pw_gid)
    server = PostgreSQL(found[-1].parent, directory, user)
    try:
        yield server
    finally:
        server.stop()
        shutil.rmtree(directory, ignore_errors=True)
