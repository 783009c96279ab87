"""Who sits in front of the page: sessions, and the one-time tokens of their forms.

Of a session only a digest is stored, of a token nothing: it is signed with the session's secret,
and the seq of its effect is derived from it. To consume a token is to make that effect, whose seq
is a unique key: both are one transaction, and a form that is sent again shows the first result.
"""

import hashlib
import hmac
import secrets
import time
from dataclasses import dataclass
from datetime import timedelta

from db.queries import credentials as keys
from db.queries import page_sessions
from db.session.database import Transaction
from service.domain.commands import Caller
from service.domain.errors import Forbidden, Unauthenticated
from service.http import credentials as auth
from service.http.answers import Header
from service.http.requests import HttpRequest, header, services_of
from service.input.headers import cookie

SESSION_LIFETIME = timedelta(hours=10)  # a working day: sign in once each morning
TOKEN_LIFETIME = timedelta(hours=2)  # a form that was left open over lunch still works
SEQ_PREFIX = "page-"
FORM_REFUSED = (
    "This form can't be used: it is too old, belongs to another session, or is not one of ours."
    " Open the page again."
)
SAME_SITE = (b"same-origin", b"none")


@dataclass(frozen=True, slots=True)
class Session:
    """A browser that is signed in with a key; the key's source and scopes are its own."""

    secret: str
    caller: Caller
    scopes: frozenset[str]

    def allows(self, scope: str) -> bool:
        """True when the key has that scope, or all of them."""
        return scope in self.scopes or "admin" in self.scopes

    def require(self, scope: str) -> None:
        """Raise `Forbidden` when the key lacks the scope."""
        if not self.allows(scope):
            raise Forbidden(f"This needs a key with the scope {scope}.")

    def issue_token(self, *actions: str) -> str:
        """Return a new token, which each of these actions takes once.

        It says when it was made and for what, signed with the session's secret: nothing is stored.
        """
        said = f"{int(time.time()):x}.{secrets.token_urlsafe(16)}.{'+'.join(actions)}"
        return f"{said}.{self._sign(said)}"

    def read_token(self, action: str, token: str) -> "FormToken":
        """Return what a form's token stands for. Raises `Forbidden` unless it is this session's."""
        said, _, signature = token.rpartition(".")
        if not hmac.compare_digest(signature.encode(), self._sign(said).encode()):
            raise Forbidden(FORM_REFUSED)
        made_at, _, actions = said.split(".")
        if action not in actions.split("+"):
            raise Forbidden(FORM_REFUSED)
        digest = hashlib.sha256(f"{self.secret} {action} {token}".encode()).hexdigest()
        is_expired = int(made_at, 16) + TOKEN_LIFETIME.total_seconds() < time.time()
        return FormToken(f"{SEQ_PREFIX}{digest}", is_expired=is_expired)

    def _sign(self, said: str) -> str:
        return hmac.new(self.secret.encode(), said.encode(), hashlib.sha256).hexdigest()


@dataclass(frozen=True, slots=True)
class FormToken:
    """A one-time token: the serial number of the one effect that it can have."""

    seq: str
    is_expired: bool


async def session_of(request: HttpRequest) -> Session:
    """Return the request's session. Raises `Unauthenticated`: none, over, or its key revoked.

    It is looked up each time, so that a revoked key is out at once, and counts as a request of that
    key: raises `RateLimited`.
    """
    sent = header(request, b"cookie") or b""
    found = cookie(sent, _cookie_name(request).encode())
    if found is None:
        raise Unauthenticated("You are not signed in.")
    secret = found.decode()
    row = await services_of(request).database.read(
        lambda connection: page_sessions.find_session(connection, _digest(secret)),
        is_urgent=True,
    )
    if row is None:
        raise Unauthenticated("Your session is over. Sign in again.")
    services_of(request).rate_limit.count(row.id)
    caller = Caller(row.source, every_source="admin" in row.scopes)
    return Session(secret, caller, frozenset(row.scopes))


async def sign_in(request: HttpRequest, key: str) -> Header:
    """Begin a session and return the header that sets its cookie.

    Raises `Unauthenticated`, and `RateLimited`: it counts as a request of that key.
    """
    services, secret = services_of(request), secrets.token_urlsafe(32)
    credential = await services.database.read(
        lambda connection: keys.find(connection, auth.digest(key.encode())), is_urgent=True
    )
    if credential is None:
        raise Unauthenticated("This key does not exist or was revoked.")
    services.rate_limit.count(credential.id)

    async def work(transaction: Transaction) -> None:
        await page_sessions.create_session(
            transaction.connection, _digest(secret), credential.id, SESSION_LIFETIME
        )

    await services.database.transact(work)
    return _cookie(request, secret)


async def sign_out(request: HttpRequest, session: Session, token: str) -> Header:
    """End the session and return the header that forgets its cookie. Raises `Forbidden`."""
    if session.read_token("sign-out", token).is_expired:
        raise Forbidden(FORM_REFUSED)

    async def work(transaction: Transaction) -> None:
        await page_sessions.end_session(transaction.connection, _digest(session.secret))

    await services_of(request).database.transact(work)
    return _cookie(request, "", "; Max-Age=0")


def check_same_site(request: HttpRequest) -> None:
    """Raise `Forbidden` when a page of another site made the browser send this.

    Browsers say so in Sec-Fetch-Site; where they don't (plain HTTP), in Origin. Without either it
    is no browser, and has no cookies that somebody else could use.
    """
    site = header(request, b"sec-fetch-site")
    origin = header(request, b"origin")
    if site is not None:
        is_ours = site in SAME_SITE
    else:
        is_ours = origin is None or _is_own(origin, header(request, b"host"))
    if not is_ours:
        raise Forbidden("This form was sent from another site.")


def _is_own(origin: bytes, host: bytes | None) -> bool:
    """True when an origin, like https://shop.example:8443, is at our host; `null` is at none."""
    authority = origin.partition(b"://")[2]
    return bool(authority) and authority.lower() == (host or b"").lower()


def _cookie(request: HttpRequest, value: str, more: str = "") -> Header:
    secure = "; Secure" if _is_secure(request) else ""
    name = _cookie_name(request)
    cookie = f"{name}={value}; Path=/; HttpOnly; SameSite=Strict{secure}{more}"
    return b"set-cookie", cookie.encode()


def _cookie_name(request: HttpRequest) -> str:
    """The prefix has browsers refuse a cookie that another host or plain HTTP would set."""
    return "__Host-holdfast" if _is_secure(request) else "holdfast"


def _is_secure(request: HttpRequest) -> bool:
    """True when the browser speaks TLS, to us or to the proxy in front of us."""
    return request.scope["scheme"] == "https" or header(request, b"x-forwarded-proto") == b"https"


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()
