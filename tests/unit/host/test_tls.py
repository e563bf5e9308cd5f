"""Which certificates serve TLS, and what is said of those that cannot."""

import shutil
import ssl
import subprocess
from pathlib import Path

import pytest

from gomodel.config.load import from_environ
from gomodel.config.settings import Config, ConfigError
from gomodel.host.listeners import bind
from gomodel.host.tls import tls_context


def config(**environ: str) -> Config:
    return from_environ({"VLLM_BASE_URL": "http://127.0.0.1:1/v1", **environ})


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    directory = tmp_path_factory.mktemp("certificates")
    for name in ("one", "other"):
        make = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
        make += ["-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.crt"]
        subprocess.run(make, cwd=directory, check=True, capture_output=True)
    lock = ["openssl", "pkcs8", "-topk8", "-in", "one.key", "-out", "locked.key", "-passout", "pass:word"]
    subprocess.run(lock, cwd=directory, check=True, capture_output=True)
    (directory / "empty").touch()
    return directory


@pytest.mark.parametrize(
    ("certificate", "key", "problem"),
    [
        ("one.crt", "other.key", "TLS_KEY_FILE: the key does not belong to the certificate"),
        ("one.crt", "locked.key", "TLS_KEY_FILE: the key is encrypted"),
        ("one.key", "one.key", "holds no valid PEM"),
        ("one.crt", "empty", "holds no valid PEM"),
    ],
)
def test_a_certificate_that_cannot_be_used_is_a_problem_of_the_configuration(
    certificates: Path, certificate: str, key: str, problem: str
) -> None:
    settings = config(TLS_CERT_FILE=str(certificates / certificate), TLS_KEY_FILE=str(certificates / key))
    with pytest.raises(ConfigError, match=problem):
        tls_context(settings)


def test_tls_is_for_tcp_and_not_for_the_unix_socket(certificates: Path, tmp_path: Path) -> None:
    files = {"TLS_CERT_FILE": str(certificates / "one.crt"), "TLS_KEY_FILE": str(certificates / "one.key")}
    settings = config(HOST="127.0.0.1", PORT="0", GOMODEL_UNIX_SOCKET=str(tmp_path / "g.sock"), **files)
    context = tls_context(settings)
    assert context is not None
    assert context.options & ssl.OP_NO_RENEGOTIATION  # or a client could stop us writing
    listeners = bind(settings)
    assert [each.tls for each in listeners] == [False, True]
    assert listeners[1].address == f"https://127.0.0.1:{listeners[1].port}"
    for each in listeners:
        each.close()
