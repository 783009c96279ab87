"""TLS for real: handshakes, a certificate that is renewed under load, and HTTP with its bounds."""

import asyncio
import os
import resource
import signal
import socket
import ssl
import time
import warnings
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from cryptography import x509

from service.http.reading.body_kinds import BODY_MAX
from tests.certificates import PairFiles, new_key, new_pair, pem_of
from tests.conftest import assert_books_balance, fresh_database
from tests.faults.test_renewal import (
    PATIENT,
    all_ended,
    everyone_is_answered,
    load,
    until,
    workers_of,
)
from tests.preloaded import run_command
from tests.raw import dial, exchange, head_of, post
from tests.server import Server, environment, running_server

DESCRIPTORS = 200  # that a worker may open in the test of its room
HSTS = "strict-transport-security"
HSTS_VALUE = "max-age=31536000"
RENEWALS = int(os.environ.get("HOLDFAST_TEST_RENEWALS", "5"))
SECONDS_MAX = 20.0  # for an end that takes about a second: only a hang takes so long
CLIENT_HELLO = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"  # the beginning of a handshake


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> PairFiles:
    return new_pair(tmp_path_factory.mktemp("pair"))


@pytest.fixture(scope="module")
async def server(postgres_url: str, pair: PairFiles) -> AsyncIterator[Server]:
    """A server with two workers that the tests share."""
    async with fresh_database(postgres_url) as url:
        with running_server(
            url, workers=2, trusted=pair.authority.trusted(), **pair.settings
        ) as started:
            async with client_of(started) as client:
                await client.put(
                    "/v1/stock/S/main", json={"available": 10**6}, headers={"If-None-Match": "*"}
                )
            yield started
        await assert_books_balance(url)


@pytest.fixture(scope="module")
async def hurried_server(postgres_url: str, pair: PairFiles) -> AsyncIterator[Server]:
    """A server that waits at most a second for its clients."""
    async with fresh_database(postgres_url) as url:
        with running_server(
            url, module="tests.hurried", trusted=pair.authority.trusted(), **pair.settings
        ) as started:
            yield started


def client_of(server: Server) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        base_url=server.url, headers=server.headers, verify=server.trusted or True, timeout=60
    )


def port_of(server: Server) -> int:
    return int(server.url.rsplit(":", 1)[1])


@contextmanager
def shaken(
    server: Server, context: ssl.SSLContext | None = None, session: ssl.SSLSession | None = None
) -> Iterator[ssl.SSLSocket]:
    """A blocking connection after its handshake."""
    context = context or server.trusted
    assert context is not None
    with (
        socket.create_connection(("127.0.0.1", port_of(server)), SECONDS_MAX) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1", session=session) as encrypted,
    ):
        yield encrypted


def serial_of(encrypted: ssl.SSLSocket) -> int:
    certificate = encrypted.getpeercert(binary_form=True)
    assert certificate is not None
    return x509.load_der_x509_certificate(certificate).serial_number


def ask(encrypted: ssl.SSLSocket, path: str = "/health/live") -> bytes:
    encrypted.sendall(f"GET {path} HTTP/1.1\r\nHost: h\r\n\r\n".encode())
    return encrypted.recv(65536)


async def ended(reader: asyncio.StreamReader) -> bytes:
    """All that the server sends until it closes the connection."""
    async with asyncio.timeout(SECONDS_MAX):
        with suppress(ConnectionError):
            return await reader.read()
    return b""


# The handshake


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_handshake_of_tls_1_2_or_1_3_succeeds(server, pair, version):
    context = pair.authority.trusted()
    context.minimum_version = context.maximum_version = version
    context.set_alpn_protocols(["h2", "http/1.1"])
    with shaken(server, context) as encrypted:
        assert encrypted.version() == version.name.replace("_", ".")
        assert encrypted.selected_alpn_protocol() == "http/1.1"
        assert ask(encrypted).startswith(b"HTTP/1.1 200 OK\r\n")


def test_a_client_that_knows_only_tls_1_1_is_refused(server, pair):
    context = pair.authority.trusted()
    context.set_ciphers("ALL:@SECLEVEL=0")  # else the client itself would refuse
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises((ssl.SSLError, ConnectionError)), shaken(server, context):
        pass
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with shaken(server, context) as encrypted:
        assert encrypted.version() == "TLSv1.2"


def test_a_client_that_does_not_trust_the_authority_refuses(server):
    with (
        pytest.raises(ssl.SSLCertVerificationError),
        shaken(server, ssl.create_default_context()),
    ):
        pass


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_client_resumes_its_session_at_every_worker(server, pair, version):
    context = pair.authority.trusted()
    context.maximum_version = version
    with shaken(server, context) as encrypted:
        ask(encrypted)
        session = encrypted.session
    for _ in range(20):  # two workers take these connections in turn
        with shaken(server, context, session) as encrypted:
            assert encrypted.session_reused
            ask(encrypted)


async def test_plain_http_gets_a_400_that_names_tls_and_nothing_is_executed(server):
    plain = replace(server, trusted=None)
    body = {"seq": "plain", "hold_seconds": 9, "lines": [{"sku": "S", "quantity": 1}]}
    async with dial(plain) as wire:
        await wire.send(b"".join(post(plain, "/v1/reservations", body)))
        answer = await wire.answer()
        assert answer is not None
        assert (answer.status, answer.json()["code"]) == (400, "invalid_request")
        assert "this port is for TLS" in answer.json()["detail"]
        assert HSTS not in answer.headers
        assert await wire.answer() is None
    async with client_of(server) as client:
        found = await client.get("/v1/reservations", params={"seq": "plain"})
        assert found.json()["items"] == []


@pytest.mark.parametrize(
    "sent",
    [b"SSH-2.0-OpenSSH_9.2\r\n", b"\x00" * 100, b"\x16" * 20_000, b"\x80\x2e\x01\x03\x01"],
    ids=["SSH", "zeros", "a broken handshake", "SSL 2"],
)
async def test_other_bytes_than_tls_close_the_connection(server, sent):
    reader, writer = await asyncio.open_connection("127.0.0.1", port_of(server))
    writer.write(sent)
    writer.write_eof()
    await ended(reader)
    writer.close()
    with shaken(server) as encrypted:
        assert ask(encrypted).startswith(b"HTTP/1.1 200 OK\r\n")


@pytest.mark.parametrize("sent", [b"", CLIENT_HELLO], ids=["no byte", "a part of it"])
async def test_a_handshake_that_never_ends_is_closed(hurried_server, sent):
    began = time.monotonic()
    reader, writer = await asyncio.open_connection("127.0.0.1", port_of(hurried_server))
    writer.write(sent)
    assert await ended(reader) == b""
    assert time.monotonic() - began < SECONDS_MAX / 2
    writer.close()


async def test_handshakes_that_fail_are_counted(server):
    async with client_of(server) as client:

        async def failed() -> float:
            text = (await client.get("/metrics")).text
            name = "holdfast_handshakes_failed_total "
            return sum(
                float(line.split()[-1]) for line in text.splitlines() if line.startswith(name)
            )

        before = await failed()
        with (
            pytest.raises(ssl.SSLCertVerificationError),
            shaken(server, ssl.create_default_context()),
        ):
            pass
        async with asyncio.timeout(SECONDS_MAX):
            while await failed() == before:
                await asyncio.sleep(0.05)


@pytest.mark.parametrize("shakes_hands", [False, True])
async def test_idle_connections_make_room_for_new_ones(database_url, pair, shakes_hands):
    """The worker closes them at once: otherwise they would use up its descriptors.

    These clients do not notice it, as while a connection is idle in a pool.
    """
    trusted = pair.authority.trusted()
    with running_server(
        database_url, module="tests.patient", trusted=trusted, **pair.settings
    ) as server:
        resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (DESCRIPTORS, DESCRIPTORS))
        before = workers_of(server)
        server.process.send_signal(signal.SIGHUP)
        await all_ended(before)
        (worker,) = workers_of(server)
        async with AsyncExitStack() as stack:
            for _ in range(3 * DESCRIPTORS // 2):
                if shakes_hands:
                    stack.enter_context(shaken(server))
                else:
                    await stack.enter_async_context(dial(replace(server, trusted=None)))
                assert len(list(Path(f"/proc/{worker}/fd").iterdir())) < DESCRIPTORS
            async with client_of(server) as client:
                assert (await client.get("/v1/stock")).status_code == 200
        assert "database_lost" not in server.log.read_text()


# HTTP over TLS


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET /health/live HTTP/1.1\r\nHost: h\r\n\r\n", 200),
        (b"GET / HTTP/1.1\r\nHost: h\r\n\r\n", 303),
        (b"GET /v1/stock HTTP/1.1\r\nHost: h\r\n\r\n", 401),
        (b"GET /nowhere HTTP/1.1\r\nHost: h\r\n\r\n", 404),
        (b"no HTTP\r\n\r\n", 400),
        (b"GET /" + b"x" * 9_000 + b" HTTP/1.1\r\n\r\n", 414),
        (b"GET / HTTP/1.1\r\nA: " + b"x" * 5_000_000, 431),
    ],
    ids=lambda value: value[:12] if isinstance(value, bytes) else None,
)
async def test_every_answer_tells_browsers_to_use_only_tls(server, sent, status):
    answer = await exchange(server, sent)
    assert answer.status == status
    assert answer.headers[HSTS] == HSTS_VALUE


@pytest.mark.parametrize("parts", [[b"GET / HT"], ["head"], ["head", *[b" "] * 60]])
async def test_a_request_that_never_ends_is_408(hurried_server, parts):
    head = head_of(hurried_server, "POST", "/v1/reservations", length=1000)
    async with dial(hurried_server) as wire:
        dripping = asyncio.create_task(wire.send(*[head if p == "head" else p for p in parts]))
        (answer,) = await wire.answers()
        dripping.cancel()
        assert answer.status == 408
        assert answer.headers[HSTS] == HSTS_VALUE


async def test_an_idle_connection_is_closed(hurried_server):
    async with dial(hurried_server) as wire:
        assert await wire.answers() == []


async def test_a_request_that_the_client_cuts_off_does_no_harm(server):
    """Only the encryption ends here: TLS has no half-closed connections."""
    with shaken(server) as encrypted:
        encrypted.sendall(head_of(server, "POST", "/v1/reservations", length=50))
        with suppress(ssl.SSLError):
            encrypted.unwrap()
    with shaken(server) as encrypted:
        encrypted.sendall(b"GET /health/ready HTTP/1.1\r\nHost: h\r\n\r\n")
        with suppress(ssl.SSLError):
            encrypted.unwrap()
    with shaken(server) as encrypted:
        assert ask(encrypted).startswith(b"HTTP/1.1 200 OK\r\n")
    assert "half" not in server.log.read_text()
    assert "eof_received" not in server.log.read_text()


async def test_large_bodies_and_many_requests_use_one_connection(server):
    lines = [{"sku": "S", "quantity": 1}]
    async with client_of(server) as client:
        for number in range(5):
            body = {"seq": f"large-{number}", "hold_seconds": 900, "lines": lines}
            text = httpx.Request("POST", "http://h", json=body).content
            padded = text + b" " * (BODY_MAX - len(text))
            answer = await client.post(
                "/v1/reservations", content=padded, headers={"Content-Type": "application/json"}
            )
            assert answer.status_code == 201
        whole = await client.get("/schema/openapi.json")
        assert whole.status_code == 200
        assert len(whole.content) > 50_000
        streams = [answer.extensions["network_stream"] for answer in (answer, whole)]
        assert streams[0].get_extra_info("client_addr") == streams[1].get_extra_info("client_addr")


async def test_requests_sent_at_once_are_answered_in_order(server):
    async with dial(server) as wire:
        sent = b"".join(
            b"".join(post(server, "/v1/reservations", {"seq": f"order-{number}", "lines": []}))
            + head_of(server, "GET", f"/nowhere/{number}")
            for number in range(20)
        )
        await wire.send(sent[:999], sent[999:])
        for number in range(20):
            assert (await wire.answer()).status == 400
            assert (await wire.answer()).json()["instance"] == f"/nowhere/{number}"


async def test_the_cookie_is_only_for_tls_and_for_this_host(server):
    async with httpx.AsyncClient(base_url=server.url, verify=server.trusted) as browser:
        form = await browser.get("/sign-in")
        answer = await browser.post("/sign-in", data={"key": server.key})
        assert form.status_code == 200
        assert answer.headers["set-cookie"].startswith("__Host-holdfast=")
        assert "; Secure" in answer.headers["set-cookie"]


async def test_plain_http_says_nothing_of_tls(database_url):
    with running_server(database_url) as server:
        assert server.url.startswith("http://")
        for sent in (head_of(server, "GET", "/health/live"), b"no HTTP\r\n\r\n"):
            assert HSTS not in (await exchange(server, sent)).headers


# Renewal


async def test_a_certificate_is_renewed_under_load_and_no_request_fails(database_url, tmp_path):
    pair = new_pair(tmp_path)
    trusted = pair.authority.trusted()
    with running_server(
        database_url, workers=2, trusted=trusted, **PATIENT, **pair.settings
    ) as server:
        async with load(server.url, server.headers, verify=trusted) as tally:
            for _ in range(RENEWALS):
                before = workers_of(server)
                serial = pair.renew()
                server.process.send_signal(signal.SIGHUP)
                await all_ended(before)
                for _ in range(5):  # whichever worker answers
                    assert await asyncio.to_thread(served_serial, server) == serial
                await everyone_is_answered(tally)
    assert (tally.lost, tally.refused) == ([], [])
    assert sum(tally.answered.values()) > 100


def served_serial(server: Server) -> int:
    with shaken(server) as encrypted:
        return serial_of(encrypted)


async def test_a_broken_pair_leaves_the_old_one_in_use_even_for_new_workers(database_url, tmp_path):
    pair = new_pair(tmp_path)
    trusted = pair.authority.trusted()
    with running_server(database_url, workers=1, trusted=trusted, **pair.settings) as server:
        serial = await asyncio.to_thread(served_serial, server)
        (worker,) = workers_of(server)
        pair.key.write_bytes(pem_of(new_key()))
        server.process.send_signal(signal.SIGHUP)
        await until(lambda: "certificate_not_loaded" in server.log.read_text())
        assert f"is not the key of the certificate {pair.cert}" in server.log.read_text()
        assert workers_of(server) == {worker}
        os.kill(worker, signal.SIGKILL)
        await until(lambda: bool(workers_of(server) - {worker}))
        assert await asyncio.to_thread(served_serial, server) == serial
        renewed = pair.renew()
        before = workers_of(server)
        server.process.send_signal(signal.SIGHUP)
        await all_ended(before)
        assert await asyncio.to_thread(served_serial, server) == renewed


async def test_an_idle_connection_does_not_stop_a_worker_from_draining(database_url, pair):
    """The client does not notice that the server ends the encryption."""
    trusted = pair.authority.trusted()
    with (
        running_server(database_url, trusted=trusted, drain_seconds=60, **pair.settings) as server,
        shaken(server) as idle,
        socket.create_connection(("127.0.0.1", port_of(server))),
    ):
        ask(idle)
        (before,) = workers_of(server)
        server.process.send_signal(signal.SIGHUP)
        await all_ended({before})


# The start, and the clients of the command line


def start(database_url: str, tmp_path: Path, **settings: object) -> tuple[int, str]:
    given = environment({"database_url": database_url, "data_dir": tmp_path / "data", **settings})
    run = run_command("serve", environment=given)
    assert "Traceback" not in run.stdout + run.stderr
    return run.returncode, run.stderr


async def test_a_start_with_another_key_is_refused_with_a_sentence(database_url, tmp_path):
    pair = new_pair(tmp_path)
    pair.key.write_bytes(pem_of(new_key()))
    code, told = await asyncio.to_thread(start, database_url, tmp_path, **pair.settings)
    assert code == 1
    assert told.startswith(f"holdfast: {pair.key} is not the key of the certificate {pair.cert}")


async def test_a_start_without_the_file_is_refused_with_a_sentence(database_url, tmp_path):
    pair = new_pair(tmp_path)
    pair.cert.unlink()
    code, told = await asyncio.to_thread(start, database_url, tmp_path, **pair.settings)
    assert (code, told) == (1, f"holdfast: {pair.cert} can't be read: No such file or directory\n")


async def test_a_start_with_a_certificate_but_no_key_is_refused(database_url, tmp_path):
    pair = new_pair(tmp_path)
    code, told = await asyncio.to_thread(start, database_url, tmp_path, tls_cert=pair.cert)
    assert code == 2
    assert "tls-cert and tls-key belong together" in told


async def test_the_commands_trust_a_private_authority_by_ssl_cert_file(server, pair, tmp_path):
    authority = tmp_path / "authority.pem"
    authority.write_bytes(pair.authority.pem)
    file = tmp_path / "stock.csv"
    file.write_text("sku,location,available\nT-1,main,5\n")
    arguments = ("import", str(file), "--url", server.url, "--key", server.key)

    def run(**more: str) -> tuple[int, str]:
        ran = run_command(*arguments, environment={**environment({}), **more})
        return ran.returncode, " ".join((ran.stdout + ran.stderr).split())

    code, told = await asyncio.to_thread(run, SSL_CERT_FILE=str(authority))
    assert code == 0, told
    code, told = await asyncio.to_thread(run)
    assert code == 1
    assert "SSL_CERT_FILE" in told
