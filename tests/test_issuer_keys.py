"""The keys of an issuer are fetched over https or from a file, rotate, and survive its outages."""

import asyncio
import json
import signal
import time

import httpx
import pytest
import structlog

from service.domain.errors import Unauthenticated, Unavailable
from service.http.access import issuer_keys
from service.http.access.issuer_keys import SIZE_MAX, check_key_file
from service.http.access.key_set import KEYS_MAX, KeySetError, read_key_set
from service.input.issuer import issuer_of
from tests import issuer as issuers
from tests.issuer import (
    SMALL_RSA,
    SigningKey,
    claims,
    make_key,
    running_issuer,
    without,
    without_database,
)
from tests.server import running_server

ALGORITHMS = "RS256,ES256,EdDSA"
OLD, NEW = make_key("ES256", "old"), make_key("ES256", "new")
RSA, ED = make_key("RS256", "rsa"), make_key("EdDSA", "ed")
SECONDS_MAX = 20.0  # only a hang takes so long


@pytest.fixture
def issuer(tmp_path, monkeypatch):
    """An issuer over https with the key OLD; this process trusts its authority."""
    with running_issuer(tmp_path / "issuer", OLD) as running:
        monkeypatch.setenv("SSL_CERT_FILE", str(running.authority))
        for name in ("WAIT_SECONDS_MAX", "FETCH_SECONDS_MAX"):  # a busy machine needs longer
            monkeypatch.setattr(issuer_keys, name, SECONDS_MAX)
        yield running


def trusting(keys_at):
    described = issuer_of(issuers.NAME, issuers.AUDIENCE, str(keys_at), ALGORITHMS, "sub")
    return without_database(described)


@pytest.fixture
def access(issuer):
    return trusting(issuer.url)


async def outcome(access, key, **changes):
    """Return the outcome of a new token: `ok`, or the code of the error."""
    token = key if isinstance(key, str) else key.sign(claims(**changes))
    try:
        await access.require(b"Bearer " + token.encode())
    except (Unauthenticated, Unavailable) as error:
        return error.code
    return "ok"


@pytest.fixture
async def running(access, monkeypatch):
    """Renew the keys in the background, twenty times a second."""
    monkeypatch.setattr(issuer_keys, "INTERVAL_SECONDS", 0.05)
    monkeypatch.setattr(issuer_keys, "RETRY_SECONDS", 0.05)
    monkeypatch.setattr(issuer_keys, "FIRST_RETRY_SECONDS", 0.05)
    task = asyncio.create_task(access.tokens.keys.run())
    yield access
    task.cancel()
    await asyncio.wait([task])
    await access.tokens.keys._fetching


async def until(condition):
    async with asyncio.timeout(SECONDS_MAX):
        while not await condition():
            await asyncio.sleep(0.02)


# Rotation


async def test_the_keys_are_fetched_once_for_many_tokens(access, issuer):
    assert [await outcome(access, OLD) for _ in range(5)] == ["ok"] * 5
    assert issuer.paths == ["/jwks.json"]


async def test_concurrent_requests_share_a_fetch(access, issuer):
    issuer.may_answer.clear()
    asking = [asyncio.create_task(outcome(access, OLD)) for _ in range(20)]
    await until(lambda: asyncio.sleep(0, issuer.paths))
    issuer.may_answer.set()
    assert await asyncio.gather(*asking) == ["ok"] * 20
    assert len(issuer.paths) == 1


async def test_the_hourly_fetch_and_a_token_share_a_fetch(access, issuer):
    keys = access.tokens.keys
    assert keys._start_fetch() is keys._start_fetch()
    assert await outcome(access, OLD) == "ok"
    assert len(issuer.paths) == 1


async def test_a_new_key_works_at_once(access, issuer):
    await access.tokens.keys._start_fetch()  # as at the start of a worker
    issuer.publish(OLD, NEW)
    assert [await outcome(access, key) for key in (NEW, OLD)] == ["ok", "ok"]
    assert len(issuer.paths) == 2


async def test_a_withdrawn_key_ends_with_the_next_fetch(running, issuer):
    remembered = OLD.sign(claims())
    assert await outcome(running, remembered) == "ok"
    issuer.publish(NEW)

    async def is_withdrawn():
        return await outcome(running, remembered) == "unauthenticated"

    await until(is_withdrawn)
    assert [await outcome(running, key) for key in (OLD, NEW)] == ["unauthenticated", "ok"]


async def test_all_keys_can_be_withdrawn(running, issuer):
    assert await outcome(running, OLD) == "ok"
    issuer.publish()

    async def is_withdrawn():
        return await outcome(running, OLD) == "unauthenticated"

    await until(is_withdrawn)


async def test_a_key_with_the_same_kid_replaces_the_former_one(running, issuer):
    token, other = OLD.sign(claims()), make_key("ES256", OLD.kid)
    assert await outcome(running, token) == "ok"
    issuer.publish(other)

    async def is_replaced():
        return await outcome(running, other) == "ok"

    await until(is_replaced)
    assert await outcome(running, token) == "unauthenticated"


async def test_remembered_tokens_stay_when_a_fetch_changes_nothing(access):
    await outcome(access, OLD)
    known = dict(access.tokens._known)
    assert known
    await access.tokens.keys._start_fetch()
    assert access.tokens._known == known


async def test_keys_are_renewed_hourly(access, issuer, monkeypatch):
    slept = []

    async def sleep(seconds):
        slept.append(seconds)
        if len(slept) == 3:
            raise asyncio.CancelledError

    monkeypatch.setattr(issuer_keys.asyncio, "sleep", sleep)
    with pytest.raises(asyncio.CancelledError):
        await access.tokens.keys.run()
    assert (slept, len(issuer.paths)) == ([3600.0] * 3, 3)


# Unknown keys


async def test_a_flood_of_unknown_kids_makes_one_fetch_a_minute(access, issuer, monkeypatch):
    await access.tokens.keys._start_fetch()
    tokens = [make_key("EdDSA", f"kid-{number}").sign(claims()) for number in range(100)]
    tokens += [OLD.sign(claims(), {"kid": f"kid-{number}"}) for number in range(100)]
    outcomes = await asyncio.gather(*(outcome(access, token) for token in tokens))
    outcomes += [await outcome(access, token) for token in tokens]
    assert set(outcomes) == {"unauthenticated"}
    assert len(issuer.paths) == 2
    issuer.publish(OLD, NEW)
    assert await outcome(access, NEW) == "unauthenticated"
    now = time.monotonic()
    monkeypatch.setattr(issuer_keys.time, "monotonic", lambda: now + 60.1)
    assert await outcome(access, NEW) == "ok"
    assert len(issuer.paths) == 3


async def test_malformed_tokens_make_no_fetch(access, issuer):
    """Only a token that could be valid makes the service ask the issuer."""
    for header in ({"alg": "none"}, {"crit": ["b64"]}, {"kid": 7}, {"alg": "HS256"}):
        assert await outcome(access, NEW.sign(claims(), header)) == "unauthenticated"
    assert issuer.paths == []


# Outages


async def test_an_unreachable_issuer_does_not_stop_tokens_whose_key_is_known(running, issuer):
    remembered = OLD.sign(claims())
    assert await outcome(running, remembered) == "ok"
    issuer.status = 500
    seen = len(issuer.paths)
    with structlog.testing.capture_logs() as logged:
        await until(lambda: asyncio.sleep(0, len(issuer.paths) > seen + 2))
        assert await outcome(running, remembered) == "ok"
        assert await outcome(running, OLD, sub="shop-us") == "ok"
        assert await outcome(running, NEW) == "unauthenticated"
        issuer.status = 200
        await until(lambda: asyncio.sleep(0, len(logged) > 1))
    assert [line["event"] for line in logged] == ["issuer_lost", "issuer_regained"]


async def test_tokens_wait_for_the_first_keys_and_are_answered_503_without_any(access, issuer):
    issuer.status = 503
    assert await outcome(access, OLD) == "unavailable"
    issuer.status = 200
    assert await outcome(access, OLD) == "unavailable"  # asked a moment ago
    assert await access.tokens.keys._start_fetch()
    assert await outcome(access, OLD) == "ok"


async def test_a_slow_issuer_delays_only_tokens_with_an_unknown_key(access, issuer, monkeypatch):
    monkeypatch.setattr(issuer_keys, "WAIT_SECONDS_MAX", 0.05)
    await access.tokens.keys._start_fetch()
    issuer.may_answer.clear()
    issuer.publish(OLD, NEW)
    assert await outcome(access, NEW) == "unavailable"
    assert await outcome(access, OLD) == "ok"
    issuer.may_answer.set()

    async def is_known():
        return await outcome(access, NEW) == "ok"

    await until(is_known)


async def test_a_fetch_that_takes_too_long_is_given_up(access, issuer, monkeypatch):
    monkeypatch.setattr(issuer_keys, "FETCH_SECONDS_MAX", 0.1)
    issuer.may_answer.clear()
    assert await outcome(access, OLD) == "unavailable"
    assert access.tokens.keys._fetching.done()


async def test_an_answer_that_arrives_byte_by_byte_is_given_up(access, issuer, monkeypatch):
    monkeypatch.setattr(issuer_keys, "FETCH_SECONDS_MAX", 0.5)
    issuer.drips, issuer.body = True, issuer.body + b" " * 1_000
    assert not await access.tokens.keys._start_fetch()
    assert len(issuer.paths) == 1


BAD_ANSWERS = {
    "a redirect": {"status": 302, "headers": {"Location": "https://127.0.0.1:1/"}},
    "an error": {"status": 500},
    "a text that is too large": {"body": issuers.key_set(NEW).ljust(SIZE_MAX + 1)},
    "a text that is compressed": {"headers": {"Content-Encoding": "gzip"}, "body": b"\x1f\x8b\x08"},
    "a page": {"body": b"<html>"},
    "too many keys": {"body": json.dumps({"keys": [{}] * (KEYS_MAX + 1)}).encode()},
    "no list": {"body": b'{"keys": {}}'},
    "no keys": {"body": b"{}"},
    "nothing": {"body": b""},
    "a deep text": {"body": b"[" * 100_000},
    "no text": {"body": b"\xff\xfe"},
}


@pytest.mark.parametrize("answer", BAD_ANSWERS.values(), ids=BAD_ANSWERS)
async def test_an_answer_without_a_set_of_keys_changes_nothing(access, issuer, answer):
    assert await outcome(access, OLD) == "ok"
    for name, value in answer.items():
        setattr(issuer, name, value)
    assert not await access.tokens.keys._start_fetch()
    assert await outcome(access, OLD) == "ok"
    assert len(issuer.paths) == 2


async def test_an_issuer_with_the_certificate_of_another_authority_is_not_trusted(
    access, issuer, monkeypatch
):
    monkeypatch.delenv("SSL_CERT_FILE")
    assert await outcome(access, OLD) == "unavailable"
    assert issuer.paths == []
    name = issuer.url.replace("127.0.0.1", "localhost")
    monkeypatch.setenv("SSL_CERT_FILE", str(issuer.authority))
    assert await outcome(trusting(name), OLD) == "unavailable"
    assert issuer.paths == []


@pytest.mark.parametrize("file", ["/nowhere/authority.pem", "/etc/hostname"])
async def test_an_unusable_file_of_authorities_makes_the_issuer_unreachable(
    access, monkeypatch, file
):
    monkeypatch.setenv("SSL_CERT_FILE", file)
    assert await outcome(access, OLD) == "unavailable"


# A file


async def test_the_keys_in_a_file_are_read_again(tmp_path):
    file = tmp_path / "jwks.json"
    file.write_bytes(issuers.key_set(OLD))
    access = trusting(file)
    await access.tokens.keys._start_fetch()
    file.write_bytes(issuers.key_set(NEW))
    assert await outcome(access, NEW) == "ok"
    assert await outcome(access, OLD) == "unauthenticated"
    file.unlink()
    assert not await access.tokens.keys._start_fetch()
    assert await outcome(access, NEW) == "ok"


def test_a_start_needs_a_key_in_the_file(tmp_path):
    file = tmp_path / "jwks.json"
    for content, named in (
        (None, "No such file"), (b"", "is not a JSON Web Key Set"), (b"x" * 300_000, "256 KiB"),
        (issuers.key_set(), "has no key"), (issuers.key_set(weak()), "2048 bits"),
    ):  # fmt: skip
        if content is not None:
            file.write_bytes(content)
        with pytest.raises(ValueError, match=named):
            check_key_file(issuer_of("a", "b", str(file), ALGORITHMS, "sub"))
    with pytest.raises(ValueError, match="is not a file"):
        check_key_file(issuer_of("a", "b", str(tmp_path), ALGORITHMS, "sub"))
    file.write_bytes(issuers.key_set(OLD))
    check_key_file(issuer_of("a", "b", str(file), ALGORITHMS, "sub"))
    with pytest.raises(ValueError, match="has no key for RS256"):
        check_key_file(issuer_of("a", "b", str(file), "RS256", "sub"))


# Keys of a set


def weak():
    return SigningKey("weak", "RS256", SMALL_RSA)


def private_part(key):
    return {**key.public(), "d": "AAAA"}


USELESS = {
    "a small RSA key": weak().public(),
    "an RSA key that is too large": {**RSA.public(), "n": "_" * 2_000},
    "an RSA key without modulus": without(RSA.public(), "n"),
    "an RSA key with an even exponent": {**RSA.public(), "e": "AQAA"},
    "an RSA key that is no number": {**RSA.public(), "n": "!"},
    "a key for encryption": ED.public(use="enc"),
    "a key for signing only": ED.public(key_ops=["sign"]),
    "a key without operations": ED.public(key_ops=[]),
    "a key for another algorithm": RSA.public(alg="PS256"),
    "a key for an HMAC": RSA.public(alg="HS256"),
    "a secret": {"kty": "oct", "k": "AAAA", "kid": "rsa", "alg": "RS256"},
    "a private key": private_part(OLD),
    "a private RSA key": private_part(RSA),
    "another curve": {**OLD.public(), "crv": "P-384"},
    "a point off the curve": {**OLD.public(), "x": "A" * 43},
    "a curve for key agreement": {**ED.public(), "crv": "X25519"},
    "a short key": {**ED.public(), "x": "AAAA"},
    "a kid that is a number": ED.public(kid=7),
    "a type that is a list": {**ED.public(), "kty": ["OKP"]},
    "operations that are a text": ED.public(key_ops="verify"),
    "a text": "key",
    "nothing": None,
    "a list": [[]],
}


@pytest.mark.parametrize("key", USELESS.values(), ids=USELESS)
def test_a_key_of_a_set_that_can_t_be_used_is_ignored(key):
    found = read_key_set(issuers.key_set(key, NEW))
    assert ([each.kid for each in found.keys], found.ignored) == (["new"], 1)


def test_members_that_limit_a_key_may_allow_it():
    keys = [
        RSA.public(alg="RS256", key_ops=["verify"], x5c=["AAAA"], x5t="AAAA", more={"a": [1]}),
        without(ED.public(), "use"),
        {**OLD.public(), "alg": None, "use": None, "key_ops": None},
    ]
    assert [key.kid for key in read_key_set(issuers.key_set(*keys)).keys] == ["rsa", "ed", "old"]


def test_the_set_has_at_most_a_hundred_keys():
    assert len(read_key_set(issuers.key_set(*[ED] * KEYS_MAX)).keys) == KEYS_MAX
    with pytest.raises(KeySetError, match="more than 100 keys"):
        read_key_set(issuers.key_set(*[ED] * (KEYS_MAX + 1)))


def test_a_key_must_be_the_only_one_that_fits():
    found = read_key_set(issuers.key_set(OLD, OLD, NEW, RSA))
    assert found.find("old", "ES256") is None
    assert found.find("new", "ES256").kid == "new"
    assert found.find(None, "ES256") is None
    assert found.find(None, "RS256").kid == "rsa"
    assert found.find("new", "RS256") is None


# A running service


async def test_a_service_with_two_workers_follows_the_keys_of_its_issuer(issuer, database_url):
    with running_server(database_url, workers=2, **issuer.settings) as server:

        def status(key):
            headers = {"Authorization": f"Bearer {key.sign(claims())}"}
            return httpx.get(f"{server.url}/v1/stock", headers=headers, timeout=60).status_code

        async def all_are(key, wanted):
            """Each request is a new connection, which any worker may accept."""
            seen = [await asyncio.to_thread(status, key) for _ in range(20)]
            return set(seen) == {wanted}

        assert await all_are(OLD, 200)
        issuer.publish(NEW)
        server.process.send_signal(signal.SIGHUP)  # new workers fetch the keys at their start

        async def old_one_has_ended():
            return await all_are(OLD, 401)

        await until(old_one_has_ended)
        assert await all_are(NEW, 200)
