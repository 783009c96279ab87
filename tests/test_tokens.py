"""JSON Web Tokens in place of keys: a good token counts like a key, and any other gets 401."""

import asyncio
import base64
import hmac
import importlib.util
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from db.vocabulary import Scope
from service.domain.errors import Unauthenticated
from service.http.access import tokens as tokens_module
from service.http.access.authentication import Authentication
from service.http.access.keys import store_key
from service.input.issuer import issuer_of
from tests import issuer
from tests.conftest import running_service
from tests.issuer import (
    SMALL_RSA,
    Later,
    SigningKey,
    base64url,
    claims,
    encoded,
    make_key,
    without_database,
)

RSA, EC, ED = (make_key(algorithm, algorithm.lower()) for algorithm in ("RS256", "ES256", "EdDSA"))
FOREIGN = {key.algorithm: make_key(key.algorithm, key.kid) for key in (RSA, EC, ED)}
SMALL = SigningKey("small", "RS256", SMALL_RSA)
PUBLISHED = issuer.key_set(RSA, EC, ED, SMALL.public())
BAD_SIGNATURE = "The signature of this token is not valid."


def trusted(file: Path, *, algorithms: str = "RS256,ES256,EdDSA", source_claim: str = "sub"):
    return issuer_of(issuer.NAME, issuer.AUDIENCE, str(file), algorithms, source_claim)


@pytest.fixture
def file(tmp_path):
    """The file with the keys of the issuer."""
    path = tmp_path / "jwks.json"
    path.write_bytes(PUBLISHED)
    return path


@pytest.fixture
def access(file):
    return without_database(trusted(file))


async def ask(access, token):
    """Ask for access with a token; return the credential."""
    sent = token if isinstance(token, bytes) else token.encode()
    return await access.require(b"Bearer " + sent)


async def refusal(access, token):
    """Return the detail of the 401 about a token, which must not repeat any of it."""
    with pytest.raises(Unauthenticated) as refused:
        await ask(access, token)
    for part in str(token).split("."):
        assert len(part) < 8 or part not in refused.value.detail
    return refused.value.detail


# Good tokens


@pytest.mark.parametrize("key", [RSA, EC, ED], ids=lambda key: key.algorithm)
async def test_a_token_of_each_algorithm_is_accepted(access, key):
    found = await ask(access, key.sign(claims()))
    assert (found.caller.source, found.caller.every_source) == ("shop-eu", False)
    assert found.scopes == {"read"}
    assert found.ends_at == pytest.approx(time.monotonic() + 360, abs=30)


async def test_both_curves_of_eddsa_are_accepted(access, file):
    larger = issuer.make_ed448_key("448")
    file.write_bytes(issuer.key_set(larger))
    assert (await ask(access, larger.sign(claims()))).caller.source == "shop-eu"


@pytest.mark.parametrize("scope", Scope)
async def test_a_scope_with_the_prefix_is_a_scope_of_a_key(access, scope):
    found = await ask(access, EC.sign(claims(scope=f"openid holdfast:{scope}")))
    assert found.scopes == {scope}
    assert found.allows(scope)
    assert found.caller.every_source is (scope == "admin")


@pytest.mark.parametrize("scope", [
    ..., "", "read", "holdfast:", "holdfast:write", "HOLDFAST:read", "holdfast:read,holdfast:stock",
    "xholdfast:read", "holdfast: read", "holdfast:read\tholdfast:stock", "openid profile",
])  # fmt: skip
async def test_a_token_without_a_scope_of_the_service_is_valid_and_may_do_nothing(access, scope):
    for needed in Scope:
        assert not (await ask(access, EC.sign(claims(scope=scope)))).allows(needed)


async def test_the_source_admin_alone_gives_no_access_to_other_sources(access):
    found = await ask(access, EC.sign(claims(sub="admin")))
    assert (found.caller.source, found.caller.every_source) == ("admin", False)


async def test_the_source_is_in_the_claim_that_the_settings_name(file):
    access = without_database(trusted(file, source_claim="client_id"))
    found = await ask(access, EC.sign(claims(sub=17, client_id="shop-us")))
    assert found.caller.source == "shop-us"
    await refusal(access, EC.sign(claims()))


async def test_all_tokens_of_a_source_have_one_id(access):
    ids = [
        (await ask(access, key.sign(claims(sub=sub)))).id
        for key, sub in ((RSA, "a"), (EC, "a"), (EC, "b"))
    ]
    assert ids[0] == ids[1] != ids[2]


@pytest.mark.parametrize("changes", [
    {"aud": ["other", issuer.AUDIENCE]}, {"exp": Later(0.5)}, {"iat": ...},
    {"nbf": Later(-1)}, {"nbf": Later(30)}, {"iat": Later(30.5)},
    {"exp": Later(-30)}, {"exp": Later(10**9)}, {"sub": "zażółć gęślą"},
    {"roles": ["x"] * 500}, {"jti": 7}, {"nested": {"a": {"b": [1]}}},
], ids=str)  # fmt: skip
async def test_unusual_claims_of_a_good_token_are_accepted(access, changes):
    await ask(access, EC.sign(claims(**changes)))


@pytest.mark.parametrize("header", [
    {"jku": "https://127.0.0.1:1/jwks"}, {"x5u": "https://127.0.0.1:1/x5u"}, {"typ": "at+jwt"},
    {"jwk": FOREIGN["ES256"].public()}, {"x5c": ["AAAA"]}, {"jwk": None}, {"cty": "JWT"},
])  # fmt: skip
async def test_header_members_that_name_another_key_are_ignored(access, header):
    await ask(access, EC.sign(claims(), header))
    assert await refusal(access, FOREIGN["ES256"].sign(claims(), header)) == BAD_SIGNATURE


async def test_a_key_works_as_before_beside_tokens(file, patient, database):
    access = Authentication(database, trusted(file))
    for key in ("hf_a-key-of-the-tests", "an.admin.key-with-two-dots", "eyJ9.a.b", "..", "a.b.c"):
        await store_key(database, key, "shop-us", ["read"])
        assert (await ask(access, key)).caller.source == "shop-us"


async def test_without_the_settings_a_token_is_an_unknown_key(patient, database):
    detail = await refusal(Authentication(database), EC.sign(claims()))
    assert "key" in detail


# Forged tokens


@pytest.mark.parametrize("algorithm", ["none", "None", "NONE", "nOnE", "", None, ..., 5, ["RS256"]])
async def test_a_token_without_a_signature_is_refused(access, algorithm):
    header = {"alg": algorithm, "kid": "rs256"}
    header = {name: value for name, value in header.items() if value is not ...}
    for signature in ("", base64url(b"signature")):
        detail = await refusal(access, f"{encoded(header)}.{encoded(claims())}.{signature}")
        assert detail == "The algorithm of this token is not accepted."


@pytest.mark.parametrize("key", [RSA, EC, ED], ids=lambda key: key.algorithm)
async def test_a_public_key_is_no_secret_of_an_hmac(access, file, key):
    public = key.public()
    published = json.loads(file.read_bytes())["keys"]
    texts = [
        key.pem, key.pem.strip(), json.dumps(public).encode(), file.read_bytes(), b"",
        json.dumps(published[[RSA, EC, ED].index(key)], separators=(",", ":")).encode(),
        base64.urlsafe_b64decode(public.get("n", public.get("x")) + "=="),
    ]  # fmt: skip
    for algorithm, digest in (("HS256", "sha256"), ("HS384", "sha384"), ("HS512", "sha512")):
        for secret in texts:
            for named in ({"kid": key.kid}, {}):
                signed = f"{encoded({'alg': algorithm, **named})}.{encoded(claims())}"
                mac = hmac.digest(secret, signed.encode(), digest)
                detail = await refusal(access, f"{signed}.{base64url(mac)}")
                assert detail == "The algorithm of this token is not accepted."


@pytest.mark.parametrize("key", [RSA, EC, ED], ids=lambda key: key.algorithm)
async def test_a_key_fits_only_its_own_algorithm(access, key):
    """A token of one type of key names the kid of another."""
    for other in (RSA, EC, ED):
        if other is not key:
            detail = await refusal(access, key.sign(claims(), {"kid": other.kid}))
            assert detail == "The issuer has no key that fits this token."
            detail = await refusal(access, key.sign(claims(), {"alg": other.algorithm}))
            assert detail == "The issuer has no key that fits this token."
            both = {"alg": other.algorithm, "kid": other.kid}
            assert await refusal(access, key.sign(claims(), both)) == BAD_SIGNATURE


@pytest.mark.parametrize(
    "algorithm", ["RS384", "RS512", "PS256", "ES384", "ES512", "ES256K", "HS256"]
)
async def test_an_algorithm_that_the_settings_can_t_name_is_refused(access, algorithm):
    detail = await refusal(access, RSA.sign(claims(), {"alg": algorithm}))
    assert detail == "The algorithm of this token is not accepted."


async def test_an_algorithm_that_the_settings_do_not_name_is_refused(file):
    access = without_database(trusted(file, algorithms="EdDSA"))
    await ask(access, ED.sign(claims()))
    assert "algorithm" in await refusal(access, RSA.sign(claims()))


@pytest.mark.parametrize("key", [RSA, EC, ED], ids=lambda key: key.algorithm)
async def test_a_token_of_another_key_with_the_same_kid_is_refused(access, key):
    assert await refusal(access, FOREIGN[key.algorithm].sign(claims())) == BAD_SIGNATURE
    token = key.sign(claims())
    signed, _, signature = token.rpartition(".")
    other = key.sign(claims(sub="shop-us"))
    for forged in (
        f"{signed}.", f"{signed}.AAAA", f"{token}A", f"{token}=", token[:-4], f"{token}.",
        f"{token}.x",        f"{other.rpartition('.')[0]}.{signature}", token.replace(".", "..", 1),
    ):  # fmt: skip
        await refusal(access, forged)
    await ask(access, token)


async def test_a_small_rsa_key_is_not_used(access):
    detail = await refusal(access, SMALL.sign(claims()))
    assert detail == "The issuer has no key that fits this token."


@pytest.mark.parametrize("crit", [["b64"], ["exp"], [], "exp", None, {}, [1]])
async def test_critical_extensions_are_refused(access, crit):
    for more in ({}, {"b64": True}, {"b64": False}, {"exp": 1}):
        detail = await refusal(access, EC.sign(claims(), {"crit": crit, **more}))
        assert detail == "This token has critical extensions, and none is supported."


@pytest.mark.parametrize("kid", [None, 1, True, ["es256"], {"es256": 1}, "", "ES256", "es256 "])
async def test_a_kid_that_is_not_the_key_s_is_refused(access, kid):
    await refusal(access, EC.sign(claims(), {"kid": kid}))


async def test_a_token_without_kid_needs_a_single_key_of_its_algorithm(access, file):
    nameless = {key: SigningKey(None, key.algorithm, key.private) for key in (RSA, EC)}
    assert await ask(access, nameless[EC].sign(claims()))
    file.write_bytes(issuer.key_set(EC, make_key("ES256", "other"), RSA))
    again = without_database(access.tokens.issuer)
    assert await ask(again, nameless[RSA].sign(claims()))
    detail = await refusal(again, nameless[EC].sign(claims()))
    assert detail == "The issuer has no key that fits this token."
    assert await ask(again, EC.sign(claims()))


# Claims


HUGE = int("9" * 400)


@pytest.mark.parametrize(("changes", "named"), [
    ({"exp": ...}, "exp"), ({"exp": None}, "exp"), ({"exp": "9999999999"}, "exp"),
    ({"exp": True}, "exp"), ({"exp": []}, "exp"), ({"exp": {"a": 1}}, "exp"),
    ({"exp": HUGE}, "exp"),
    ({"exp": Later(300, 1000)}, "exp"), ({"exp": 2**63}, "exp"), ({"exp": 1e300}, "exp"),
    ({"exp": 0}, "exp"), ({"exp": -1}, "exp"), ({"exp": -HUGE}, "exp"),
    ({"exp": Later(-61)}, "exp"), ({"exp": Later(-3600)}, "exp"),
    ({"nbf": Later(120)}, "nbf"), ({"nbf": "0"}, "nbf"), ({"nbf": None}, "nbf"),
    ({"nbf": True}, "nbf"), ({"iat": False}, "iat"),
    ({"nbf": HUGE}, "nbf"), ({"iat": Later(120)}, "iat"), ({"iat": "0"}, "iat"),
    ({"iat": None}, "iat"), ({"iat": [1]}, "iat"),
    ({"iss": ...}, "iss"), ({"iss": f"{issuer.NAME}/"}, "iss"),
    ({"iss": issuer.NAME.upper()}, "iss"),
    ({"iss": [issuer.NAME]}, "iss"), ({"iss": None}, "iss"), ({"iss": ""}, "iss"),
    ({"aud": ...}, "aud"), ({"aud": "holdfast2"}, "aud"), ({"aud": "Holdfast"}, "aud"),
    ({"aud": []}, "aud"), ({"aud": ["other"]}, "aud"), ({"aud": [["holdfast"]]}, "aud"),
    ({"aud": {"holdfast": 1}}, "aud"), ({"aud": None}, "aud"), ({"aud": "xholdfastx"}, "aud"),
    ({"sub": ...}, "sub"), ({"sub": None}, "sub"), ({"sub": 7}, "sub"), ({"sub": ["shop"]}, "sub"),
    ({"sub": ""}, "sub"), ({"sub": " x"}, "sub"), ({"sub": "a\nb"}, "sub"),
    ({"sub": "x\u200b"}, "sub"),
    ({"sub": "x" * 129}, "sub"), ({"sub": "a\x00b"}, "sub"), ({"sub": "\u202ex"}, "sub"),
    ({"scope": ["holdfast:read"]}, "scope"), ({"scope": None}, "scope"), ({"scope": 1}, "scope"),
], ids=lambda value: str(value)[:40])  # fmt: skip
async def test_a_wrong_claim_is_refused_and_named(access, changes, named):
    detail = await refusal(access, EC.sign(claims(**changes)))
    assert named in detail or detail == "The claims of this token are not a JSON object."


@pytest.mark.parametrize("payload", [
    b"", b"null", b"[]", b"1", b'"x"', b"{", b"{}", b"\xff", b'{"exp": NaN}', b'{"exp": 1e999}',
    b'{"a": "\\ud800"}', b'{"a":' * 17 + b"1" + b"}" * 17, b"[" * 9000, b'{"a":' * 2000,
], ids=lambda value: repr(value[:20]))  # fmt: skip
async def test_a_payload_that_is_no_object_of_claims_is_refused(access, payload):
    await refusal(access, EC.sign(payload))


@pytest.mark.parametrize("header", [
    b"", b"null", b"[]", b"{", b"\xff", b'{"alg"}', b'{"a":' * 17 + b"1" + b"}" * 17, b"[" * 9000,
    b'{"alg": "ES256", "x": "\\ud800"}', b'{"alg": "ES256", "x": 1e999}',
    b'{"alg": "ES256", "b64": false}',
], ids=lambda value: repr(value[:20]))  # fmt: skip
async def test_a_header_that_is_malformed_is_refused(access, header):
    await refusal(access, f"{encoded(header)}.{encoded(claims())}.{base64url(b'x' * 64)}")


@pytest.mark.parametrize(("depth", "is_accepted"), [(15, True), (16, False), (900, False)])
async def test_the_parts_of_a_token_may_be_nested_as_deep_as_a_body(access, depth, is_accepted):
    deep = json.loads("[" * depth + "]" * depth)
    for token in (EC.sign(claims(deep=deep)), EC.sign(claims(), {"deep": deep})):
        if is_accepted:
            await ask(access, token)
        else:
            await refusal(access, token)


async def test_a_token_may_have_a_limited_length(access):
    for room, is_accepted in ((11_000, True), (13_000, False)):
        token = EC.sign(claims(filler="x" * room))
        if is_accepted:
            await ask(access, token)
        else:
            assert "16 KiB" in await refusal(access, token)


# Verified tokens are remembered


@pytest.fixture
def count_signatures(access, monkeypatch):
    """Return a list that grows with each signature that is verified."""
    verified, verify = [], access.tokens._verified

    def counted(text, key):
        verified.append(text)
        return verify(text, key)

    monkeypatch.setattr(access.tokens, "_verified", counted)
    return verified


async def test_a_token_is_verified_once(access, count_signatures):
    token = EC.sign(claims())
    assert len({id(await ask(access, token)) for _ in range(5)}) == 1
    assert len(count_signatures) == 1


async def test_a_remembered_token_ends_when_it_expires(access, monkeypatch):
    token = EC.sign(claims())
    await ask(access, token)
    now = time.time()
    monkeypatch.setattr(tokens_module.time, "time", lambda: now + 361)
    assert "expired" in await refusal(access, token)


async def test_the_number_and_the_size_of_remembered_tokens_are_bounded(access, monkeypatch):
    monkeypatch.setattr(tokens_module, "KNOWN_MAX", 3)
    for number in range(10):
        await ask(access, EC.sign(claims(sub=f"shop-{number}")))
        assert len(access.tokens._known) <= 3
    monkeypatch.setattr(tokens_module, "KNOWN_MAX", 100)
    monkeypatch.setattr(tokens_module, "KNOWN_BYTES_MAX", 2_000)
    for number in range(20):
        await ask(access, EC.sign(claims(sub=f"shop-{number}")))
        assert sum(map(len, access.tokens._known)) <= 2_000
        assert access.tokens._known_bytes == sum(map(len, access.tokens._known))


# Any text


@pytest.fixture(scope="module")
def verifier(tmp_path_factory):
    path = tmp_path_factory.mktemp("issuer") / "jwks.json"
    path.write_bytes(PUBLISHED)
    return without_database(trusted(path))


VALID = [key.sign(claims(exp=int(time.time()) + 86_400)).encode() for key in (RSA, EC, ED)]
HEADERS = st.fixed_dictionaries(
    {"alg": st.sampled_from(["RS256", "ES256", "EdDSA", "none", "HS256"]) | st.text(max_size=5)},
    optional={
        "kid": st.sampled_from(["rs256", "es256", "eddsa"]) | st.text(max_size=5) | st.none(),
        "b64": st.booleans(),
        "crit": st.lists(st.text(max_size=3), max_size=2),
        "zip": st.just("DEF"),
    },
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)


@st.composite
def mutations(draw):
    """A valid token of which some bytes are replaced, removed, doubled or added."""
    token = bytearray(draw(st.sampled_from(VALID)))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(token) - 1))
        length = draw(st.integers(0, 8))
        token[at : at + length] = draw(
            st.binary(max_size=8) | st.just(bytes(token[at : at + length]) * 2) | st.just(b".")
        )
        if not token:
            break
    return bytes(token)


@st.composite
def assembled(draw):
    """A token of parts that were made by themselves."""
    signature = draw(st.binary(max_size=300) | st.just(base64.urlsafe_b64decode(b"AA==")))
    payload = draw(JSON | st.binary(max_size=30))
    return f"{encoded(draw(HEADERS))}.{encoded(payload)}.{base64url(signature)}".encode()


ANY_TEXT = (
    mutations() | assembled() | st.binary(max_size=200) | st.text(max_size=200).map(str.encode)
)


@given(ANY_TEXT)
@settings(max_examples=600, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_no_other_text_is_a_token(verifier, text):
    """Any text gets 401, and no other error."""
    if text.strip() in VALID:
        return
    with pytest.raises(Unauthenticated):
        await verifier.require(b"Bearer " + text)


@given(st.dictionaries(st.sampled_from(["exp", "nbf", "iat", "iss", "aud", "sub", "scope"]), JSON))
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_signed_claims_of_any_kind_are_accepted_or_refused(verifier, changes):
    try:
        found = await ask(verifier, EC.sign(claims(**changes)))
    except Unauthenticated:
        return
    assert found.scopes <= set(Scope)


# The settings and their documentation


@pytest.mark.parametrize("library", ["jwt", "cryptography"])
def test_an_issuer_needs_the_extra(monkeypatch, file, library):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == library else find(name)
    )
    with pytest.raises(ValueError, match=rf"{library}.*not installed.*holdfast\[jwt\]"):
        trusted(file)
    assert issuer_of(None, None, None, "RS256", "sub") is None


def run(code, directory):
    """Run Python code in a process of its own; return what it prints."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=directory, env=environment, stdout=-1, check=True
    )
    return done.stdout.decode().strip()


def test_without_an_issuer_no_library_for_tokens_is_imported():
    code = (
        "import sys; import service.http.app;"
        " print([name for name in ('jwt', 'cryptography') if name in sys.modules])"
    )
    assert run(code, Path()) == "[]"


async def test_the_documented_example_works(tmp_path):
    text = (Path(__file__).parents[1] / "docs" / "operations.md").read_text()
    code = re.search(r"```python\n(# issuer\.py.*?)```", text, re.DOTALL)[1]
    token = run(code, tmp_path)
    flags = re.search(r"--jwt-issuer (\S+) --jwt-audience (\S+) --jwt-jwks (\S+)", text)
    file = str(tmp_path / flags[3])
    access = without_database(issuer_of(flags[1], flags[2], file, "RS256,ES256,EdDSA", "sub"))
    found = await ask(access, token)
    assert (found.caller.source, found.scopes) == ("shop-eu", {"reserve", "read"})


# Over HTTP


async def test_a_token_reserves_for_its_source(database_url, file):
    given = {"jwt_issuer": issuer.NAME, "jwt_audience": issuer.AUDIENCE, "jwt_jwks": str(file)}
    async with running_service(database_url, **given) as service:
        await service.stock("A", 10)

        def bearer(**changes):
            return {"Authorization": f"Bearer {EC.sign(claims(**changes))}"}

        both = "holdfast:reserve holdfast:read"
        made = await service.client.post(
            "/v1/reservations",
            json={"seq": "1", "lines": [{"sku": "A", "quantity": 1}]},
            headers=bearer(sub="shop-us", scope=both),
        )
        assert (made.status_code, made.json()["source"]) == (201, "shop-us")
        seen = []
        for changes in (
            {"sub": "shop-us"}, {"sub": "shop-fr"}, {"sub": "shop-fr", "scope": "holdfast:admin"},
        ):  # fmt: skip
            answer = await service.client.get(made.headers["Location"], headers=bearer(**changes))
            seen.append(answer.status_code)
        assert seen == [200, 404, 200]
        refused = await service.client.get("/v1/stock", headers=bearer(exp=1))
        assert (refused.status_code, refused.json()["code"]) == (401, "unauthenticated")
        assert refused.headers["WWW-Authenticate"] == "Bearer"
        assert "exp" in refused.json()["detail"]
        forbidden = await service.client.get("/v1/stock", headers=bearer(scope="openid"))
        assert (forbidden.status_code, forbidden.json()["code"]) == (403, "forbidden")


async def test_a_token_has_the_rate_of_its_source(database_url, file):
    given = {"jwt_issuer": issuer.NAME, "jwt_audience": issuer.AUDIENCE, "jwt_jwks": str(file)}
    async with running_service(database_url, **given) as service:
        await service.sql(
            "INSERT INTO source_limit (source, requests_per_second, tracking, open_holds,"
            " held_units, version) VALUES ('shop-us', 2, 'off', 0, 0, 1)"
        )

        async def statuses(source):
            """The statuses of ten requests, each with a token of its own."""
            tokens = [EC.sign(claims(sub=source, jti=str(number))) for number in range(10)]
            answers = [
                await service.client.get("/v1/stock", headers={"Authorization": f"Bearer {token}"})
                for token in tokens
            ]
            return [answer.status_code for answer in answers]

        assert 429 in await statuses("shop-us")
        assert set(await statuses("shop-fr")) == {200}
        await service.sql("UPDATE source_limit SET requests_per_second = NULL")

        async def is_without_limit():
            return set(await statuses("shop-us")) == {200}

        async with asyncio.timeout(20):
            while not await is_without_limit():
                await asyncio.sleep(0.1)


async def test_large_bodies_of_all_tokens_of_a_source_share_its_room(
    database_url, file, monkeypatch
):
    given = {"jwt_issuer": issuer.NAME, "jwt_audience": issuer.AUDIENCE, "jwt_jwks": str(file)}
    async with running_service(database_url, **given) as service:
        room = service.app.worker.body_room
        held, hold = [], room.hold
        monkeypatch.setattr(room, "hold", lambda key, size: held.append(key) or hold(key, size))
        for number in range(2):
            token = EC.sign(claims(scope="holdfast:reserve", jti=str(number)))
            answer = await service.client.post(
                "/v1/reservations",
                json={"seq": "1", "lines": [], "metadata": {"a": "x" * 70_000}},
                headers={"Authorization": f"Bearer {token}"},
            )
            assert answer.status_code == 400
        assert len(held) == 2
        assert len(set(held)) == 1
