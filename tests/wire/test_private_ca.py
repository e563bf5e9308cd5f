"""Instances with a certificate of one's own, and TLS where it is not expected or the other way round, said in words."""

import asyncio
import ssl

import pytest

from gomodel.config.load import from_environ
from gomodel.config.settings import ConfigError
from gomodel.process.check import print_table

from ..harness.gateway import DEFAULTS
from ..harness.scripted import Fin, request, response
from ..harness.tls import KEY_AND_CERTIFICATE
from ..harness.verdicts import ask, own_error, tells_nothing

NAME = "nobody.test"  # whom the certificate is for
CERTIFICATE = KEY_AND_CERTIFICATE[KEY_AND_CERTIFICATE.index("-----BEGIN CERTIFICATE") :]
MODELS = b'{"object":"list","data":[{"id":"m"}]}'
ONCE = request("POST", "/p/vllm/version", body=b"x")


@pytest.fixture
def ca_file(tmp_path):
    path = tmp_path / "ca.pem"
    path.write_text(CERTIFICATE)
    return path


@pytest.fixture
async def port(no_leaks, tmp_path, names):
    """Of an instance called NAME (and OTHER), which answers everything with a list of models."""
    names.answer(NAME, "127.0.0.1")
    names.answer("other.test", "127.0.0.1")
    pem = tmp_path / "server.pem"
    pem.write_text(KEY_AND_CERTIFICATE)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    tasks = set()

    async def serve(reader, writer):
        tasks.add(asyncio.current_task())
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                writer.write(
                    b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%b" % (len(MODELS), MODELS)
                )
                break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    yield server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    if tasks:
        await asyncio.wait(tasks)


async def test_an_instance_is_trusted_by_its_ca_and_another_one_is_not(gateway, port, connect, ca_file):
    url = f"https://{NAME}:{port}/v1"
    handle = await gateway(vllm=url, vllm_other=url, VLLM_CA_FILE=str(ca_file), RETRY_MAX_RETRIES="0")
    client = await connect(handle)
    assert (await ask(client, ONCE)).status == 200
    answer = await ask(client, request("POST", "/p/vllm-other/version", body=b"x"))
    message = own_error(answer, 502, "tls_certificate_error")
    assert message == "The certificate of instance 'vllm-other' is signed by nobody trusted here."
    tells_nothing(handle, answer)


@pytest.mark.parametrize(("host", "why"), [("other.test", "another host name"), ("127.0.0.1", "another address")])
async def test_a_certificate_is_for_its_name_only_whoever_signed_it(gateway, port, connect, ca_file, host, why):
    handle = await gateway(vllm=f"https://{host}:{port}/v1", VLLM_CA_FILE=str(ca_file), RETRY_MAX_RETRIES="0")
    answer = await ask(await connect(handle), ONCE)
    assert own_error(answer, 502, "tls_certificate_error") == f"The certificate of instance 'vllm' is for {why}."
    tells_nothing(handle, answer)


async def test_a_ca_that_is_given_or_taken_away_counts_from_the_reload_on(gateway, port, connect, ca_file):
    env = {**DEFAULTS, "VLLM_BASE_URL": f"https://{NAME}:{port}/v1", "RETRY_MAX_RETRIES": "0"}
    handle = await gateway(env)
    client = await connect(handle)
    assert (await ask(client, ONCE)).status == 502
    handle.gateway.reload(from_environ({**env, "VLLM_CA_FILE": str(ca_file)}))
    assert (await ask(client, ONCE)).status == 200
    handle.gateway.reload(from_environ(env))
    assert (await ask(client, ONCE)).status == 502


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (None, "cannot be read"),
        ("", "holds no valid certificate in PEM"),
        ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "holds no valid certificate in PEM"),
        (KEY_AND_CERTIFICATE[: KEY_AND_CERTIFICATE.index("-----BEGIN CERT")], "holds no valid certificate in PEM"),
    ],
    ids=["absent", "empty", "damaged", "a key alone"],
)
@pytest.mark.parametrize("prefix", ["VLLM_", "VLLM_TEST_"])
def test_a_ca_file_without_a_certificate_is_an_error(tmp_path, content, part, prefix):
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError) as caught:
        from_environ({f"{prefix}BASE_URL": "https://gpu.test/v1", f"{prefix}CA_FILE": str(path)})
    (problem,) = caught.value.problems
    assert problem.startswith(f"{prefix}CA_FILE: ")
    assert part in problem


def test_a_ca_file_belongs_to_an_https_instance(ca_file):
    with pytest.raises(ConfigError, match="VLLM_TEST_CA_FILE: is set but VLLM_TEST_BASE_URL is not"):
        from_environ({"VLLM_TEST_CA_FILE": str(ca_file)})
    plain = from_environ({"VLLM_BASE_URL": "http://gpu.test/v1", "VLLM_CA_FILE": str(ca_file)})
    assert [each for each in plain.warnings if "VLLM_CA_FILE has no effect" in each]
    https = from_environ({"VLLM_BASE_URL": "https://gpu.test/v1", "VLLM_CA_FILE": str(ca_file)})
    assert https.instances[0].ca_pem == CERTIFICATE
    assert CERTIFICATE not in repr(https)
    assert not [each for each in https.warnings if "CA_FILE" in each]


async def checked(capsys, **environ: str) -> str:
    assert await print_table(from_environ(environ)) in (0, 1)
    return capsys.readouterr().out


async def test_check_says_how_to_trust_a_ca_of_ones_own(port, capsys, ca_file):
    url = f"https://{NAME}:{port}/v1"
    said = await checked(capsys, VLLM_EU_WEST_BASE_URL=url)
    assert "tls certificate error" in said
    assert "set VLLM_EU_WEST_CA_FILE to its certificate" in said
    assert "SSL_CERT_FILE" in said
    said = await checked(capsys, VLLM_EU_WEST_BASE_URL=url, VLLM_EU_WEST_CA_FILE=str(ca_file))
    assert "Configuration OK." in said


async def test_check_says_that_an_instance_speaks_tls_or_that_it_does_not(upstream, port, capsys):
    upstream.lenient = True
    assert "It speaks TLS: its base URL should begin with https://" in await checked(
        capsys, VLLM_BASE_URL=f"http://{NAME}:{port}/v1"
    )
    upstream.on_accept(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n", Fin())
    upstream.on_request(response())
    said = await checked(capsys, VLLM_BASE_URL=upstream.base_url.replace("http:", "https:"))
    assert "It does not speak TLS: its base URL should begin with http://" in said


@pytest.mark.parametrize(
    "greeting", [b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n", b"SSH-2.0-OpenSSH_9.6\r\n"]
)
async def test_https_to_a_plain_port_is_said_in_words(gateway, upstream, connect, greeting):
    upstream.lenient = True
    upstream.on_accept(greeting, Fin())
    handle = await gateway(vllm=upstream.base_url.replace("http:", "https:"), RETRY_MAX_RETRIES="0")
    answer = await ask(await connect(handle), ONCE)
    assert own_error(answer, 502, "tls_protocol_error") == "Instance 'vllm' is set to https but does not speak TLS."
    tells_nothing(handle, answer, upstream)


@pytest.mark.parametrize("alert", [b"\x15\x03\x01\x00\x02\x02\x28", b"\x15\x03\x03\x00\x02\x02\x46"])
async def test_plain_http_to_a_tls_port_is_said_in_words(gateway, upstream, connect, alert):
    upstream.on_request(alert, Fin())
    handle = await gateway(vllm=upstream)
    answer = await ask(await connect(handle), ONCE)
    message = own_error(answer, 502, "http_protocol_error")
    assert message == "Instance 'vllm' speaks TLS but is set to plain http."
    tells_nothing(handle, answer, upstream)


async def test_what_is_served_in_tls_is_what_was_sent(gateway, port, connect, ca_file):
    handle = await gateway(vllm=f"https://{NAME}:{port}/v1", VLLM_CA_FILE=str(ca_file))
    answer = await ask(await connect(handle), request("GET", "/p/vllm/v1/models"))
    assert (answer.status, answer.body) == (200, MODELS)
