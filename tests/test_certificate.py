"""A certificate is checked when it is loaded, and the message says what is wrong in which file."""

import time
from datetime import timedelta
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from service.ops.certificate import CertificateError, ServedCertificate, load_certificate
from service.settings import Settings
from tests.certificates import DAY, PairFiles, new_key, new_pair, pem_of, rsa_key


@pytest.fixture
def pair(tmp_path: Path) -> PairFiles:
    return new_pair(tmp_path)


def refusal(pair: PairFiles) -> CertificateError:
    with pytest.raises(CertificateError) as refused:
        load_certificate(pair.cert, pair.key)
    return refused.value


def test_a_loaded_certificate_tells_its_names_its_dates_and_its_serial_number(pair):
    serial = pair.renew()
    loaded = load_certificate(pair.cert, pair.key)
    assert loaded.names == ("localhost", "127.0.0.1")
    assert int(loaded.serial, 16) == serial
    assert loaded.ends_at - time.time() == pytest.approx(DAY.total_seconds(), abs=60)
    assert loaded.concern(time.time()) is None
    assert "has expired at" in (loaded.concern(loaded.ends_at + 1) or "")
    assert "is not valid before" in (loaded.concern(loaded.begins_at - 1) or "")


def test_a_key_of_another_certificate_is_refused(pair):
    pair.key.write_bytes(pem_of(new_key()))
    assert str(refusal(pair)).startswith(
        f"{pair.key} is not the key of the certificate {pair.cert}"
    )


def test_a_key_of_another_kind_is_refused(pair):
    pair.key.write_bytes(pem_of(rsa_key()))
    assert f"{pair.key} is not the key" in str(refusal(pair))


@pytest.mark.parametrize("which", ["cert", "key"])
@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "can't be read: No such file or directory"),
        (b"", "contains no"),
        (b"\xff\x00 not PEM", "contains no"),
        (b"-----BEGIN CERTIFICATE-----\nabc\n-----END CERTIFICATE-----\n", "contains no"),
        (b"-----BEGIN PRIVATE KEY-----\nabc\n-----END PRIVATE KEY-----\n", "contains no"),
        (b" " * 2_000_000, "is too large"),
    ],
    ids=["missing", "empty", "binary", "broken certificate", "broken key", "too large"],
)
def test_a_file_that_is_not_what_it_should_be_is_named(pair, which, content, says):
    file = getattr(pair, which)
    file.unlink()
    if content is not None:
        file.write_bytes(content)
    refused = refusal(pair)
    assert refused.file == file
    assert says in str(refused)


def test_exchanged_files_are_refused(pair):
    assert refusal(PairFiles(pair.authority, pair.key, pair.cert)).file == pair.key


def test_a_key_with_a_password_is_refused_without_asking_for_it(pair):
    key = new_key()
    pair.cert.write_bytes(pair.authority.certificate(key))
    pair.key.write_bytes(pem_of(key, b"password"))
    assert "is protected by a password" in str(refusal(pair))


def test_a_weak_key_is_refused(pair):
    key = rsa_key(1024)
    pair.cert.write_bytes(pair.authority.certificate(key))
    pair.key.write_bytes(pem_of(key))
    assert "is too weak (ee key too small)" in str(refusal(pair))


def test_a_certificate_that_is_only_for_clients_is_refused(pair):
    key = new_key()
    pair.cert.write_bytes(pair.authority.certificate(key, is_for_clients=True))
    pair.key.write_bytes(pem_of(key))
    assert "can't be used by a server" in str(refusal(pair))


def test_a_chain_with_comments_and_the_key_in_one_file_is_loaded(pair):
    chain = "# für alle\n".encode() + pair.cert.read_bytes() + pair.authority.pem
    pair.cert.write_bytes(chain + pair.key.read_bytes())
    assert load_certificate(pair.cert, pair.cert).names


def expired(pair: PairFiles) -> None:
    key = new_key()
    pair.cert.write_bytes(pair.authority.certificate(key, ends=timedelta(hours=-1)))
    pair.key.write_bytes(pem_of(key))


def test_an_expired_certificate_is_a_warning_at_start(pair):
    expired(pair)
    with capture_logs() as lines:
        served = ServedCertificate(pair.cert, pair.key)
    (warning,) = [line for line in lines if line["log_level"] == "warning"]
    assert warning["event"] == "certificate_concern"
    assert "has expired" in warning["concern"]
    assert served.current.context is not None


@pytest.mark.parametrize(
    ("break_it", "says"),
    [
        (expired, "has expired"),
        (lambda pair: pair.key.write_bytes(pem_of(new_key())), "is not the key"),
        (lambda pair: pair.cert.write_bytes(b""), "contains no certificate"),
        (lambda pair: pair.key.unlink(), "can't be read"),
    ],
    ids=["expired", "half written", "empty", "missing"],
)
def test_a_broken_successor_leaves_the_certificate_in_use(pair, break_it, says):
    served = ServedCertificate(pair.cert, pair.key)
    first = served.current
    break_it(pair)
    with capture_logs() as lines:
        assert not served.renew()
    (line,) = lines
    assert line["event"] == "certificate_not_loaded"
    assert says in line["reason"]
    assert served.current is first
    pair.renew()
    assert served.renew()
    assert served.current is not first


@pytest.mark.parametrize("given", [{"tls_cert": "c.pem"}, {"tls_key": "k.pem"}])
def test_a_certificate_and_its_key_belong_together(given):
    with pytest.raises(ValueError, match="tls-cert and tls-key belong together"):
        Settings(**given)
