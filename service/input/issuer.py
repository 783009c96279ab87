"""Checks the settings about the issuer of JSON Web Tokens, before anything is started."""

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

ALGORITHMS = ("RS256", "ES256", "EdDSA")
"""The signature algorithms that can be accepted. All of them verify with a public key."""
LIBRARIES = ("jwt", "cryptography")
"""The modules that the extra `jwt` installs."""


@dataclass(frozen=True, slots=True)
class Issuer:
    """The issuer whose tokens are accepted, and the claims that its tokens must have."""

    name: str
    audience: str
    keys_at: Path | str
    """The file, or the https URL, with its public keys."""
    algorithms: tuple[str, ...]
    source_claim: str


def issuer_of(
    name: str | None, audience: str | None, keys_at: str | None, algorithms: str, source_claim: str
) -> Issuer | None:
    """Return the issuer that the settings describe; None if they describe none.

    Raises `ValueError` with the remedy.
    """
    accepted = _algorithms(algorithms)
    if name is None and audience is None and keys_at is None:
        return None
    if name is None or audience is None or keys_at is None:
        settings = {"jwt-issuer": name, "jwt-audience": audience, "jwt-jwks": keys_at}
        missing = " and ".join(each for each, value in settings.items() if value is None)
        raise ValueError(
            f"tokens need jwt-issuer, jwt-audience and jwt-jwks together: set {missing} too"
        )
    _check_libraries()
    return Issuer(name, audience, _address(keys_at), accepted, source_claim)


def _algorithms(text: str) -> tuple[str, ...]:
    named = tuple(dict.fromkeys(each.strip() for each in text.split(",")))
    unknown = [each for each in named if each not in ALGORITHMS]
    if unknown:
        raise ValueError(
            f"jwt-algorithms can't have {unknown[0] or 'an empty name'!r}:"
            f" name some of {', '.join(ALGORITHMS)}, divided by commas"
        )
    return named


def _address(text: str) -> Path | str:
    """A file's path, or an https URL. Any other URL is refused: its keys could be replaced."""
    if "://" not in text:
        return Path(text)
    try:
        parts = urlsplit(text)
        has_host = bool(parts.hostname) and parts.port != 0
    except ValueError:
        parts, has_host = urlsplit(""), False
    if parts.scheme.lower() != "https" or not has_host:
        raise ValueError("jwt-jwks must be a file or an https URL, such as https://host/jwks.json")
    return text


def _check_libraries() -> None:
    for library in LIBRARIES:
        if importlib.util.find_spec(library) is None:
            raise ValueError(
                f"JSON Web Tokens need the Python package {library}, which is not installed:"
                " install it with `pip install 'holdfast[jwt]'`,"
                " or beside a pipx installation with `pipx inject holdfast 'pyjwt[crypto]'`"
            )
