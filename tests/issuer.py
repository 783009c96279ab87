"""An issuer of JSON Web Tokens for the tests: it makes keys, signs tokens and publishes its keys.

It publishes them in a file, or over https with a certificate of its own authority. The service
trusts that authority when SSL_CERT_FILE names its certificate.
"""

import base64
import datetime
import http.server
import ipaddress
import json
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jwt
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.x509.oid import NameOID

from service.http.access.authentication import Authentication
from service.input.issuer import Issuer as TrustedIssuer

NAME = "https://issuer.test/realms/shops"
AUDIENCE = "holdfast"

MAKE = {
    "RS256": lambda: rsa.generate_private_key(65537, 2048),
    "ES256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate,
}
SMALL_RSA = rsa.generate_private_key(65537, 1024)


@dataclass(frozen=True)
class SigningKey:
    """A private key with its kid, and the algorithm of the tokens that it signs."""

    kid: str | None
    algorithm: str
    private: Any

    def public(self, **more: Any) -> dict[str, Any]:
        """The JSON Web Key that the issuer publishes."""
        made = jwt.get_algorithm_by_name(self.algorithm).to_jwk(
            self.private.public_key(), as_dict=True
        )
        named = {} if self.kid is None else {"kid": self.kid}
        return {**without(made, "key_ops"), **named, "use": "sig", **more}

    @property
    def pem(self) -> bytes:
        """The public key in PEM."""
        return self.private.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )

    def sign(self, claims: Any, header: dict[str, Any] | None = None) -> str:
        """Return a token with these claims. Members of `header` replace the usual ones."""
        named = {} if self.kid is None else {"kid": self.kid}
        full = {"alg": self.algorithm, "typ": "JWT", **named, **(header or {})}
        signing_input = f"{encoded(full)}.{encoded(claims)}"
        algorithm = jwt.get_algorithm_by_name(self.algorithm)
        return f"{signing_input}.{base64url(algorithm.sign(signing_input.encode(), self.private))}"


def make_key(algorithm: str, kid: str | None = None) -> SigningKey:
    """Return a new key for an algorithm."""
    return SigningKey(kid, algorithm, MAKE[algorithm]())


def make_ed448_key(kid: str) -> SigningKey:
    """Return a new key of the larger curve for EdDSA."""
    return SigningKey(kid, "EdDSA", ed448.Ed448PrivateKey.generate())


@dataclass(frozen=True)
class Later:
    """A time in a claim: so many seconds after now."""

    seconds: float
    factor: int = 1


def claims(**changes: Any) -> dict[str, Any]:
    """The claims of a good token. A change to `...` leaves the claim out."""
    now = int(time.time())
    usual = {
        "iss": NAME,
        "aud": AUDIENCE,
        "sub": "shop-eu",
        "iat": now,
        "exp": now + 300,
        "scope": "holdfast:read openid",
    }
    return {
        name: (time.time() + value.seconds) * value.factor if isinstance(value, Later) else value
        for name, value in {**usual, **changes}.items()
        if value is not ...
    }


def base64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def encoded(value: Any) -> str:
    """A part of a token: the JSON of a value, or a text as it is."""
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64url(raw)


def without(members: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in members.items() if name not in names}


def key_set(*keys: SigningKey | dict[str, Any]) -> bytes:
    """The JSON Web Key Set of these keys."""
    public = [key.public() if isinstance(key, SigningKey) else key for key in keys]
    return json.dumps({"keys": public}).encode()


class Nothing:
    """An empty database of keys and limits: no key is known, and no source has a limit."""

    async def find(self, _: Any) -> None:
        return None


def without_database(trusted: TrustedIssuer) -> Authentication:
    """Return what accepts the tokens of an issuer, and no key."""
    made = Authentication(None, trusted)
    made.keys = made.tokens.rates = Nothing()
    return made


@dataclass
class Issuer:
    """The https server of an issuer. A test may change its answer at any time."""

    url: str
    authority: Path
    """The file with the certificate of the issuer's authority."""
    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    drips: bool = False
    """Each byte of a body takes a while."""
    paths: list[str] = field(default_factory=list)
    """The path of each request so far."""
    may_answer: threading.Event = field(default_factory=threading.Event)
    """Requests wait while it is not set."""

    @property
    def settings(self) -> dict[str, str]:
        """The settings of a service that accepts this issuer's tokens."""
        return {"jwt_issuer": NAME, "jwt_audience": AUDIENCE, "jwt_jwks": self.url}

    def publish(self, *keys: SigningKey | dict[str, Any]) -> None:
        """Replace the keys that the issuer publishes."""
        self.body = key_set(*keys)


@contextmanager
def running_issuer(directory: Path, *keys: SigningKey) -> Iterator[Issuer]:
    """Serve a set of keys over https until the block ends."""
    authority, chain = _certificates(directory)

    class Answers(http.server.BaseHTTPRequestHandler):
        timeout = 30

        def do_GET(self) -> None:
            issuer.paths.append(self.path)
            issuer.may_answer.wait(30)
            self.send_response(issuer.status)
            for name, value in issuer.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(issuer.body)))
            self.end_headers()
            for byte in issuer.body if issuer.drips else ():
                self.wfile.write(bytes([byte]))
                time.sleep(0.01)
            self.wfile.write(b"" if issuer.drips else issuer.body)

        def log_message(self, *_: Any) -> None:
            """Keep the output of the tests free of requests."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    server.handle_error = lambda *_: None  # a client that gives up is no news
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain)
    # The thread of the connection shakes hands: the one that accepts must not wait for a client.
    server.socket = context.wrap_socket(
        server.socket, server_side=True, do_handshake_on_connect=False
    )
    server.daemon_threads, server.block_on_close = True, False
    issuer = Issuer(f"https://127.0.0.1:{server.server_port}/jwks.json", authority)
    issuer.publish(*keys)
    issuer.may_answer.set()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield issuer
    finally:
        issuer.may_answer.set()
        server.shutdown()
        thread.join()
        server.server_close()


def _certificates(directory: Path) -> tuple[Path, Path]:
    """Make an authority and a certificate of it for 127.0.0.1; return their files."""
    directory.mkdir(parents=True, exist_ok=True)
    authority_key, key = MAKE["ES256"](), MAKE["ES256"]()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Authority of the tests")])
    authority = (
        _certificate(name, name, authority_key)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(
            x509.SubjectKeyIdentifier.from_public_key(authority_key.public_key()), critical=False
        )
        .sign(authority_key, hashes.SHA256())
    )
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    leaf = (
        _certificate(x509.Name([]), name, key)
        .add_extension(x509.SubjectAlternativeName([address]), critical=True)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()),
            critical=False,
        )
        .sign(authority_key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    (directory / "authority.pem").write_bytes(authority.public_bytes(pem))
    private = key.private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (directory / "chain.pem").write_bytes(leaf.public_bytes(pem) + private)
    return directory / "authority.pem", directory / "chain.pem"


def _certificate(subject: x509.Name, signer: x509.Name, key: Any) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(signer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )
