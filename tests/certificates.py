"""A certificate authority of the tests' own, and the certificates that it signs."""

import ipaddress
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

DAY = timedelta(days=1)


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def rsa_key(bits: int = 2048) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, bits)


def pem_of(key: CertificateIssuerPrivateKeyTypes, password: bytes | None = None) -> bytes:
    """A private key as the text of a file, encrypted if there is a password."""
    encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if password is not None:
        encryption = serialization.BestAvailableEncryption(password)
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption
    )


class Authority:
    """Signs certificates for this machine."""

    def __init__(self) -> None:
        self._key = new_key()
        self._name = _name("Authority of the tests")
        self.pem = self._sign(self._name, self._key, is_authority=True)

    def trusted(self) -> ssl.SSLContext:
        """The context of a client that trusts this authority."""
        return ssl.create_default_context(cadata=self.pem.decode())

    def certificate(
        self,
        key: CertificateIssuerPrivateKeyTypes,
        begins: timedelta = -DAY,
        ends: timedelta = DAY,
        *,
        is_for_clients: bool = False,
        names: Sequence[str] = ("localhost", "127.0.0.1"),
    ) -> bytes:
        """A certificate for this machine or for other names, with its dates counted from now."""
        return self._sign(
            _name("localhost"),
            key,
            begins=begins,
            ends=ends,
            is_for_clients=is_for_clients,
            names=names,
        )

    def _sign(
        self,
        subject: x509.Name,
        key: CertificateIssuerPrivateKeyTypes,
        begins: timedelta = -DAY,
        ends: timedelta = DAY,
        *,
        is_authority: bool = False,
        is_for_clients: bool = False,
        names: Sequence[str] = (),
    ) -> bytes:
        now = datetime.now(UTC)
        use = ExtendedKeyUsageOID.CLIENT_AUTH if is_for_clients else ExtendedKeyUsageOID.SERVER_AUTH
        builder = (
            x509.CertificateBuilder(subject_name=subject, issuer_name=self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + begins)
            .not_valid_after(now + ends)
            .add_extension(x509.BasicConstraints(is_authority, None), critical=True)
        )
        if not is_authority:
            builder = builder.add_extension(
                x509.SubjectAlternativeName([_alternative(name) for name in names]), critical=False
            ).add_extension(x509.ExtendedKeyUsage([use]), critical=False)
        return builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


@dataclass(frozen=True)
class PairFiles:
    """The files of a certificate and its key, as a service is told about them."""

    authority: Authority
    cert: Path
    key: Path

    @property
    def settings(self) -> dict[str, Path]:
        return {"tls_cert": self.cert, "tls_key": self.key}

    def renew(self) -> int:
        """Write a new certificate with a new key; return its serial number."""
        key = new_key()
        cert = self.authority.certificate(key)
        self.key.write_bytes(pem_of(key))
        self.cert.write_bytes(cert)
        return x509.load_pem_x509_certificate(cert).serial_number


def new_pair(directory: Path) -> PairFiles:
    """A certificate and its key in new files of a directory."""
    pair = PairFiles(Authority(), directory / "cert.pem", directory / "key.pem")
    pair.renew()
    return pair


def _alternative(name: str) -> x509.GeneralName:
    """A host name or an address, as certificates write it."""
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])
