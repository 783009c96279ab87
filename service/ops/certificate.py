"""The certificate of the service and its key: read, checked, and kept for the workers.

The supervisor loads them, and the workers inherit the loaded context when they are forked. So a
worker that is replaced never reads the files: they may be broken or half written at that moment.
All workers also share the keys of the session tickets, so a client that resumes its session may do
so at any worker.
"""

import ssl
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import structlog

log = structlog.get_logger()

FILE_BYTES_MAX = 1024 * 1024  # a chain with a key has a few kB
HANDSHAKE_ROUNDS_MAX = 10  # a handshake with itself needs three
MISMATCHES = ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH", "NO_CERTIFICATE_ASSIGNED")
NO_CHECK_TIME = 0x200000  # X509_V_FLAG_NO_CHECK_TIME, for which Python has no name


class CertificateError(OSError):
    """The certificate or its key can't be used. The message names the file and the remedy."""

    def __init__(self, file: Path, reason: str) -> None:
        super().__init__(f"{file} {reason}")
        self.file = file
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate with its key, ready for handshakes."""

    context: ssl.SSLContext
    names: tuple[str, ...]
    """The host names and addresses that it is for."""
    serial: str
    begins_at: float
    ends_at: float

    def concern(self, now: float) -> str | None:
        """Return the reason for which clients refuse it at this moment, or None."""
        if now > self.ends_at:
            return f"has expired at {_moment(self.ends_at)}: renew it"
        if now < self.begins_at:
            return f"is not valid before {_moment(self.begins_at)}: check this machine's clock"
        return None


class ServedCertificate:
    """The certificate that new workers serve with; it stays in use if its successor is broken."""

    def __init__(self, cert: Path, key: Path) -> None:
        """Load the files. Raises `CertificateError`.

        An expired certificate is loaded with a warning: a service that does not start would help
        nobody, and clients that don't check dates are still answered.
        """
        self._cert, self._key = cert, key
        self.current = load_certificate(cert, key)
        concern = self.current.concern(time.time())
        if concern is not None:
            log.warning("certificate_concern", file=str(cert), concern=concern)
        self._log_loaded()

    def renew(self) -> bool:
        """Load the files again; log why and return False if they can't replace those in use."""
        try:
            renewed = load_certificate(self._cert, self._key)
            concern = renewed.concern(time.time())
            if concern is not None:
                raise CertificateError(self._cert, concern)
        except CertificateError as error:
            log.error(  # noqa: TRY400 - the reason says all; a traceback would hide it
                "certificate_not_loaded",
                file=str(error.file),
                reason=error.reason,
                remedy="the workers continue with the previous certificate; repair the file and"
                " send SIGHUP again",
            )
            return False
        self.current = renewed
        self._log_loaded()
        return True

    def _log_loaded(self) -> None:
        loaded = self.current
        log.info(
            "certificate_loaded",
            names=list(loaded.names),
            serial=loaded.serial,
            expires=_moment(loaded.ends_at),
        )


def load_certificate(cert: Path, key: Path) -> Certificate:
    """Read a certificate and its key, and shake hands with them once.

    Raises `CertificateError`.
    """
    client = _trusting(cert, _read(cert))
    _read(key)
    context = _context(cert, key)
    details = _shake_hands(cert, context, client)
    return Certificate(
        context=context,
        names=tuple(name for _, name in details.get("subjectAltName", ())),
        serial=details["serialNumber"],
        begins_at=ssl.cert_time_to_seconds(details["notBefore"]),
        ends_at=ssl.cert_time_to_seconds(details["notAfter"]),
    )


def _read(file: Path) -> str:
    """Return the text of a PEM file; its comments may be in any encoding."""
    try:
        with file.open("rb") as opened:
            content = opened.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise CertificateError(file, f"can't be read: {error.strerror}") from None
    if len(content) > FILE_BYTES_MAX:
        raise CertificateError(file, "is too large for a PEM file")
    return content.decode("ascii", "ignore")


def _context(cert: Path, key: Path) -> ssl.SSLContext:
    """Return the settings of the handshakes: TLS 1.2 or 1.3, and HTTP/1.1 over it."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])

    def refuse_password() -> str:
        raise CertificateError(
            key, "is protected by a password: `openssl pkey` writes a key without one"
        )

    try:
        context.load_cert_chain(cert, key, refuse_password)
    except ssl.SSLError as error:
        raise _explained(error, cert, key) from None
    except CertificateError:
        raise
    except OSError as error:  # it has disappeared since it was read
        raise CertificateError(cert, f"or {key} can't be read: {error.strerror}") from None
    return context


def _explained(error: ssl.SSLError, cert: Path, key: Path) -> CertificateError:
    """Say which of the two files OpenSSL complains about; the certificate itself is readable."""
    reason = error.reason or ""
    if reason in MISMATCHES:
        return CertificateError(
            key, f"is not the key of the certificate {cert}: both files must be of one pair"
        )
    if reason.startswith(("EE_", "CA_")):
        weakness = reason.lower().replace("_", " ")
        return CertificateError(cert, f"is too weak ({weakness}): make one with a stronger key")
    return CertificateError(key, "contains no private key that can be read: it must be PEM")


def _trusting(cert: Path, chain: str) -> ssl.SSLContext:
    """Return a client's context that trusts this certificate, whatever its dates are.

    It trusts only the first one of the chain, which is the service's own.
    """
    own, end, _ = chain.partition("-----END CERTIFICATE-----")
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | NO_CHECK_TIME
    try:
        client.load_verify_locations(cadata=own + end)
    except (ssl.SSLError, ValueError):
        raise CertificateError(
            cert,
            "contains no certificate that can be read: it must be PEM, the service's own first",
        ) from None
    return client


def _shake_hands(cert: Path, context: ssl.SSLContext, client: ssl.SSLContext) -> dict[str, Any]:
    """Connect a server and a client in memory; return the certificate as the client sees it.

    Python shows the dates of a certificate only to a client that has verified it.
    """
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = (
        client.wrap_bio(to_client, to_server),
        context.wrap_bio(to_server, to_client, server_side=True),
    )
    try:
        for _ in range(HANDSHAKE_ROUNDS_MAX):
            for side in sides:
                with suppress(ssl.SSLWantReadError):
                    side.do_handshake()
    except ssl.SSLError as error:
        why = getattr(error, "verify_message", None) or error.reason
        raise CertificateError(cert, f"can't be used by a server: {why}") from None
    return dict(sides[0].getpeercert() or {})


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()
