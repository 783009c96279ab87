"""Everything that can be set: by environment `HOLDFAST_<NAME>` or by flag, and the flag wins."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, TypeAdapter, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from db.embedded.roles import Addresses
from db.strategies import check_strategy
from db.vocabulary import StrategyName

AdminKey = Annotated[
    str, StringConstraints(pattern=r"^[\x21-\x7e]+$", min_length=32, max_length=200)
]
"""Long enough that nobody guesses it, and what fits into a header."""


class Settings(BaseSettings):
    """The settings of a service, built once at the edge and passed down."""

    model_config = SettingsConfigDict(
        env_prefix="HOLDFAST_",
        env_ignore_empty=True,  # compose files pass on what is not set as an empty value
        frozen=True,
        extra="ignore",
    )

    database_url: str | None = Field(
        None,
        description="PostgreSQL to use, as postgresql://user:password@host:port/name."
        " Without it a private one is started in the data directory.",
    )
    migrate_database_url: str | None = Field(
        None,
        description="The same database for the role that owns the tables: it migrates, and grants"
        " the role of DATABASE_URL what it needs to serve. Without it that one does both.",
    )
    data_dir: Path = Field(
        Path(".holdfast"), description="Where the private PostgreSQL and the admin key lie."
    )
    pg_bin: Path | None = Field(
        None, description="Directory of the PostgreSQL binaries to use for the private server."
    )
    host: str = Field("127.0.0.1", description="Address to listen on; loopback unless you say so.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    workers: int = Field(
        1, ge=1, le=64, description="Processes that answer requests; one saturates one core."
    )
    strategy: StrategyName = Field(
        StrategyName.GUARD, description=f"How stock is kept apart: {', '.join(StrategyName)}."
    )
    redis_url: str | None = Field(
        None, description="Where the strategy redis keeps its locks: redis://host:port/0."
    )
    zookeeper_hosts: str | None = Field(
        None, description="Where the strategy zookeeper keeps its locks: host:port,host:port."
    )
    admin_key: str | None = Field(
        None,
        description="Value of the first admin key, 32 to 200 characters; without it one is made and"
        " written to <data-dir>/admin.key. Others may see a flag in the list of processes: prefer"
        " --admin-key-file.",
    )
    admin_key_file: Path | None = Field(
        None, description="File that holds the value of the first admin key, such as a secret."
    )
    log_format: Literal["console", "json"] = Field(
        "console", description="How log lines look: console for people, json for collectors."
    )
    pool_size: int = Field(
        8,
        ge=3,
        le=100,
        description="Database connections per worker: lanes, plus reads, plus key look-ups.",
    )
    lanes: int = Field(
        1,
        ge=1,
        le=16,
        description="Transactions under way at once per worker; one merges the most.",
    )
    queue_max: int = Field(
        2000,
        ge=1,
        description="Commands that may wait per worker; beyond it requests are shed with 503.",
    )
    retry_attempts: int = Field(
        8, ge=1, le=100, description="How often a transaction that loses races is run at most."
    )
    retry_wait_seconds: float = Field(
        0.002, gt=0, le=0.2, description="Longest wait before the first retry; then it doubles."
    )
    retry_seconds: float = Field(
        5.0, gt=0, description="How long a transaction may be retried, in seconds."
    )
    retry_share: float = Field(
        0.1,
        ge=0,
        description="Retries per command carried out that a worker allows itself; beyond it lost"
        " races are answered 503 contention.",
    )
    retry_burst: int = Field(
        100, ge=1, description="Retries a worker may make beyond its share, saved up while calm."
    )
    rate_limit: int = Field(
        0, ge=0, description="Requests per second per key and worker; 0 sets no limit."
    )
    unready_seconds: float = Field(
        0.5,
        ge=0,
        description="How long the service goes on serving after /health/ready went off at"
        " shutdown, in seconds.",
    )
    drain_seconds: float = Field(
        10.0, ge=0, description="Grace time for work in flight at shutdown, in seconds."
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        """Refuse at once what would only be noticed when it is used."""
        check_strategy(self.strategy, self.redis_url, self.zookeeper_hosts)
        self.first_admin_key()
        if self.migrate_database_url is not None and self.database_url is None:
            raise ValueError(
                "migrate-database-url needs database-url beside it: its role is granted what it"
                " needs to serve"
            )
        return self

    def first_admin_key(self) -> str | None:
        """Return the key that the operator has chosen. Raises `ValueError` that says what to do."""
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
                    " `openssl rand -hex 32` makes one"
                ) from None
        return value

    def at(self, addresses: Addresses) -> Self:
        """Return these settings with the roles of a private PostgreSQL."""
        roles = {
            "database_url": addresses.serving,
            "migrate_database_url": addresses.migrating,
        }
        return self.model_copy(update=roles)
