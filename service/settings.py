"""Everything that can be set: by environment `HOLDFAST_<NAME>` or by flag, and the flag wins."""

from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from db.strategies import STRATEGIES


class Settings(BaseSettings):
    """The settings of a service, built once at the edge and passed down."""

    model_config = SettingsConfigDict(env_prefix="HOLDFAST_", frozen=True, extra="ignore")

    database_url: str | None = Field(
        None,
        description="PostgreSQL to use, as postgresql://user:password@host:port/name."
        " Without it a private one is started in the data directory.",
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
    strategy: Literal[
        "guard", "version", "pessimistic", "serializable", "advisory", "redis", "zookeeper"
    ] = Field("guard", description=f"How stock is kept apart: {', '.join(STRATEGIES)}.")
    redis_url: str | None = Field(
        None, description="Where the strategy redis keeps its locks: redis://host:port/0."
    )
    zookeeper_hosts: str | None = Field(
        None, description="Where the strategy zookeeper keeps its locks: host:port,host:port."
    )
    admin_key: str | None = Field(
        None,
        min_length=20,
        max_length=200,
        description="Value of the first admin key; without it one is made and written to"
        " <data-dir>/admin.key.",
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
