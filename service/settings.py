"""The settings: environment variables `HOLDFAST_<NAME>` or flags. A flag wins over a variable."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, TypeAdapter, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from db.embedded.roles import Addresses
from db.strategies import check_redis, check_strategy
from db.vocabulary import StrategyName
from service.input.hosts import AllowedHosts
from service.input.issuer import Issuer, issuer_of
from service.input.proxies import TrustedProxies

AdminKey = Annotated[
    str, StringConstraints(pattern=r"^[\x21-\x7e]+$", min_length=32, max_length=200)
]
"""Long enough that nobody can guess it, and made of characters that a header can carry."""


class Settings(BaseSettings):
    """The settings of a service, built once at start and passed down."""

    model_config = SettingsConfigDict(
        env_prefix="HOLDFAST_",
        env_ignore_empty=True,  # compose files pass a variable that is not set as an empty value
        frozen=True,
        extra="ignore",
    )

    database_url: str | None = Field(
        None,
        description="Address of the PostgreSQL to use, as postgresql://user:password@host:port/name."
        " Without it, a private PostgreSQL is started in the data directory.",
    )
    migrate_database_url: str | None = Field(
        None,
        description="Address of the same database for the role that owns the tables. This role"
        " migrates, and grants the role of DATABASE_URL the permissions to serve. Without it, the"
        " role of DATABASE_URL does both.",
    )
    data_dir: Path = Field(
        Path(".holdfast"), description="Directory of the private PostgreSQL and of the admin key."
    )
    pg_bin: Path | None = Field(
        None, description="Directory of the PostgreSQL binaries to use for the private server."
    )
    host: str = Field(
        "127.0.0.1", description="Address to listen on; by default only this machine can connect."
    )
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0 takes a free port.")
    workers: int = Field(
        1, ge=1, le=64, description="Processes that answer requests; one worker saturates one core."
    )
    strategy: StrategyName = Field(
        StrategyName.GUARD,
        description=f"How concurrent transactions are kept apart: {', '.join(StrategyName)}.",
    )
    redis_url: str | None = Field(
        None,
        description="Redis in which all workers and services share the rate limits, and in which"
        " the strategy redis keeps its locks: redis://host:port/0.",
    )
    zookeeper_hosts: str | None = Field(
        None,
        description="Servers on which the strategy zookeeper keeps its locks: host:port,host:port.",
    )
    admin_key: str | None = Field(
        None,
        description="Value of the first admin key, 32 to 200 characters. Without it, a key is made"
        " and written to <data-dir>/admin.key. Other users can see a flag in the list of processes:"
        " prefer --admin-key-file.",
    )
    admin_key_file: Path | None = Field(
        None, description="File with the value of the first admin key, such as a mounted secret."
    )
    log_format: Literal["console", "json"] = Field(
        "console", description="Format of log lines: console for people, json for log collectors."
    )
    pool_size: int = Field(
        8,
        ge=3,
        le=100,
        description="Database connections per worker: for lanes, reads and key look-ups.",
    )
    lanes: int = Field(
        1,
        ge=1,
        le=16,
        description="Transactions under way at once per worker; one lane merges the most requests.",
    )
    queue_max: int = Field(
        2000,
        ge=1,
        description="Commands that may wait per worker; when more arrive, they are answered 503.",
    )
    retry_attempts: int = Field(
        8,
        ge=1,
        le=100,
        description="Attempts at a transaction that loses races, the first included.",
    )
    retry_wait_seconds: float = Field(
        0.002,
        gt=0,
        le=0.2,
        description="Longest wait before the first retry, in seconds; it doubles with each retry.",
    )
    retry_seconds: float = Field(
        5.0, gt=0, description="Time during which a transaction may be retried, in seconds."
    )
    retry_share: float = Field(
        0.1,
        ge=0,
        description="Retries that a worker may make for each command that it carries out; beyond"
        " that, requests that lose a race are answered 503 contention.",
    )
    retry_burst: int = Field(
        100,
        ge=1,
        description="Retries that a worker may save up in calm times, to exceed its share later.",
    )
    rate_limit: int = Field(
        0,
        ge=0,
        description="Requests a second of each source without a limit of its own; 0 sets no limit."
        " Without REDIS_URL each worker admits its share.",
    )
    inflight_max: int = Field(
        512,
        ge=1,
        description="Requests of one source that a worker answers at once; more are answered 429.",
    )
    jwt_issuer: str | None = Field(
        None,
        description="Issuer whose JSON Web Tokens are accepted in place of keys, as in their claim"
        " iss. Needs JWT_AUDIENCE and JWT_JWKS beside it.",
    )
    jwt_audience: str | None = Field(
        None, description="Audience that a token must be for, as in its claim aud."
    )
    jwt_jwks: str | None = Field(
        None,
        description="File or https URL with the public keys of the issuer (a JSON Web Key Set).",
    )
    jwt_algorithms: str = Field(
        "RS256,ES256,EdDSA",
        description="Signature algorithms that are accepted, divided by commas.",
    )
    jwt_source_claim: str = Field("sub", description="Claim of a token that names its source.")
    trusted_proxies: str = Field(
        "",
        description="Addresses and networks of the proxies in front of the service, divided by"
        " commas. Only their X-Forwarded-For and X-Forwarded-Proto count.",
    )
    allowed_hosts: str = Field(
        "",
        description="Host names that requests may name, divided by commas; *.example.com allows all"
        " below it. Empty allows any name.",
    )
    connections_per_address_max: int = Field(
        0,
        ge=0,
        description="Open connections that one address may have; 0 sets no limit.",
    )
    tls_cert: Path | None = Field(
        None,
        description="File with the certificate chain (PEM). With it the service speaks TLS only;"
        " SIGHUP loads a renewed certificate.",
    )
    tls_key: Path | None = Field(
        None, description="File with the private key of the certificate (PEM)."
    )
    metrics_key_required: bool = Field(
        False, description="Whether /metrics needs a key with the scope read."
    )
    unready_seconds: float = Field(
        0.5,
        ge=0,
        description="Time at shutdown during which the service still serves after /health/ready has"
        " turned 503, in seconds.",
    )
    drain_seconds: float = Field(
        10.0, ge=0, description="Grace time at shutdown for work that is under way, in seconds."
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        """Refuse values at start that would otherwise fail only at their first use."""
        check_strategy(self.strategy, self.redis_url, self.zookeeper_hosts)
        if self.redis_url is not None:
            check_redis(self.redis_url, "redis-url")
        self.first_admin_key()
        self.issuer()
        TrustedProxies(self.trusted_proxies)
        AllowedHosts(self.allowed_hosts)
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError(
                "tls-cert and tls-key belong together: set both to serve TLS, or neither"
            )
        if self.migrate_database_url is not None and self.database_url is None:
            raise ValueError(
                "migrate-database-url needs database-url beside it: set it to the address of the"
                " role that serves"
            )
        return self

    def first_admin_key(self) -> str | None:
        """Return the key that the operator has chosen; None lets the service make one.

        Raises `ValueError` with the remedy.
        """
        if self.admin_key_file is None:
            value = self.admin_key
        elif self.admin_key is not None:
            raise ValueError("admin-key and admin-key-file can't both be set: choose one")
        else:
            try:
                value = self.admin_key_file.read_text().strip()
            except (OSError, ValueError) as error:
                raise ValueError(
                    f"admin-key-file {self.admin_key_file} can't be read: {error}"
                ) from error
        if value is not None:
            try:
                TypeAdapter(AdminKey).validate_python(value)
            except ValidationError:
                raise ValueError(
                    "the admin key must have 32 to 200 printable ASCII characters and no space;"
                    " `openssl rand -hex 32` makes such a key"
                ) from None
        return value

    def issuer(self) -> Issuer | None:
        """Return the issuer whose tokens are accepted. Raises `ValueError` with the remedy."""
        return issuer_of(
            self.jwt_issuer,
            self.jwt_audience,
            self.jwt_jwks,
            self.jwt_algorithms,
            self.jwt_source_claim,
        )

    def at(self, addresses: Addresses) -> Self:
        """Return these settings with the addresses of a private PostgreSQL."""
        roles = {
            "database_url": addresses.serving,
            "migrate_database_url": addresses.migrating,
        }
        return self.model_copy(update=roles)
