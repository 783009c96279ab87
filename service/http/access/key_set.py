"""The public keys of an issuer, read from a JSON Web Key Set (RFC 7517).

Each key fits exactly one algorithm, which its type decides. So no token can make the service use
a key with another algorithm, for example a public RSA key as the secret of an HMAC.
"""

from dataclasses import dataclass

import jwt
import msgspec
from cryptography.exceptions import UnsupportedAlgorithm

ALGORITHM_OF = {
    ("RSA", None): "RS256",
    ("EC", "P-256"): "ES256",
    ("OKP", "Ed25519"): "EdDSA",
    ("OKP", "Ed448"): "EdDSA",
}
"""The algorithm of a key, by its type and its curve. No other key is used."""
RSA_BITS_MIN = 2048
RSA_BITS_MAX = 8192  # a larger key would make each forged token expensive to refuse
NUMBER_MAX = 1_400
"""Characters of the longest number in a key: 8,192 bits in base64url, and a few more."""
KEYS_MAX = 100


class KeySetError(ValueError):
    """The text is not a set of keys; the message completes a sentence about it."""


@dataclass(frozen=True, slots=True)
class IssuerKey:
    """A public key of the issuer."""

    kid: str | None
    algorithm: str
    verifier: jwt.PyJWK


class KeySet:
    """The keys of a set that can verify tokens."""

    def __init__(self, keys: list[IssuerKey], *, ignored: int = 0) -> None:
        self.keys = keys
        self.ignored = ignored
        """The number of keys in the set that are not used."""

    def find(self, kid: str | None, algorithm: str) -> IssuerKey | None:
        """Return the only key that fits; None if no key fits, or if several do.

        Without a `kid` every key of the algorithm fits.
        """
        fitting = [
            key for key in self.keys if key.algorithm == algorithm and kid in (None, key.kid)
        ]
        return fitting[0] if len(fitting) == 1 else None


class _JsonWebKey(msgspec.Struct):
    """The members of a key that matter here. The parts of a private key are never used."""

    kty: str
    kid: str | None = None
    crv: str | None = None
    alg: str | None = None
    use: str | None = None
    key_ops: list[str] | None = None
    n: str | None = None
    e: str | None = None
    x: str | None = None
    y: str | None = None
    d: object = None


class _JsonWebKeySet(msgspec.Struct):
    keys: list[msgspec.Raw]


def read_key_set(raw: bytes) -> KeySet:
    """Return the keys of a JSON Web Key Set that can verify tokens. Raises `KeySetError`."""
    try:
        found = msgspec.json.decode(raw, type=_JsonWebKeySet).keys
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise KeySetError("is not a JSON Web Key Set") from None
    if len(found) > KEYS_MAX:
        raise KeySetError(f"has more than {KEYS_MAX} keys")
    usable = [key for key in map(_read_key, found) if key is not None]
    return KeySet(usable, ignored=len(found) - len(usable))


def _read_key(raw: msgspec.Raw) -> IssuerKey | None:
    """Return a key; None if it is of another kind or for another use, or if it is weak."""
    try:
        key = msgspec.json.decode(raw, type=_JsonWebKey)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    algorithm = ALGORITHM_OF.get((key.kty, key.crv if key.kty != "RSA" else None))
    if algorithm is None or not _is_for(key, algorithm):
        return None
    verifier = _verifier(key, algorithm)
    if verifier is None or (key.kty == "RSA" and not _is_of_good_size(verifier)):
        return None
    return IssuerKey(key.kid, algorithm, verifier)


def _is_for(key: _JsonWebKey, algorithm: str) -> bool:
    """True if the key may verify signatures of the algorithm, and if only its owner can sign.

    With its private part (`d`) in the set, every reader of the set could sign.
    """
    return (
        key.alg in (None, algorithm)
        and key.use in (None, "sig")
        and (key.key_ops is None or "verify" in key.key_ops)
        and key.d is None
    )


def _verifier(key: _JsonWebKey, algorithm: str) -> jwt.PyJWK | None:
    numbers = {"n": key.n, "e": key.e, "x": key.x, "y": key.y}
    given = {name: text for name, text in numbers.items() if text is not None}
    if any(len(text) > NUMBER_MAX for text in given.values()):
        return None
    try:
        return jwt.PyJWK({"kty": key.kty, "crv": key.crv, **given}, algorithm)
    except (jwt.PyJWTError, UnsupportedAlgorithm, ValueError, TypeError):
        return None


def _is_of_good_size(verifier: jwt.PyJWK) -> bool:
    return bool(RSA_BITS_MIN <= verifier.key.key_size <= RSA_BITS_MAX)
