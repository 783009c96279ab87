"""The strategies that keep concurrent transactions apart: a module each, one interface for all.

The default needs no lock at all. The others exist for comparison, for migrations and for databases
that need them. No code outside this folder depends on which strategy is active.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from db.strategies.advisory import Advisory
from db.strategies.guard import Guard
from db.strategies.pessimistic import Pessimistic
from db.strategies.serializable import Serializable
from db.strategies.strategy import Strategy
from db.strategies.version import Version
from db.vocabulary import StrategyName

CLIENTS = {StrategyName.REDIS: "redis", StrategyName.ZOOKEEPER: "kazoo"}
"""The Python package that a strategy needs and that an extra of its name installs."""


def check_strategy(name: str, redis_url: str | None, zookeeper_hosts: str | None) -> None:
    """Raise `ValueError` if a strategy lacks a setting or a package, or a setting is wrong."""
    if name == StrategyName.REDIS:
        if not redis_url:
            raise ValueError(
                "the strategy redis needs HOLDFAST_REDIS_URL or --redis-url, as redis://host:port/0"
            )
        check_redis(redis_url, f"the strategy {name}")
    if name == StrategyName.ZOOKEEPER:
        if not zookeeper_hosts:
            raise ValueError(
                "the strategy zookeeper needs HOLDFAST_ZOOKEEPER_HOSTS or --zookeeper-hosts,"
                " as host:port,…"
            )
        with _explaining_extra(StrategyName.ZOOKEEPER, f"the strategy {name}"):
            from db.strategies.zookeeper import check_hosts  # noqa: PLC0415 - its client is an extra
        check_hosts(zookeeper_hosts)


def check_redis(url: str, needed_by: str) -> None:
    """Raise `ValueError` if Redis' client is not installed, or the address is wrong."""
    with _explaining_extra(StrategyName.REDIS, needed_by):
        from db.strategies.redis import check_url  # noqa: PLC0415 - its client is an extra
    check_url(url)


@contextmanager
def _explaining_extra(name: StrategyName, needed_by: str) -> Iterator[None]:
    """Explain how to install the client of a server if its import fails."""
    try:
        yield
    except ModuleNotFoundError as error:
        package = CLIENTS[name]
        if str(error.name).partition(".")[0] != package:
            raise
        raise ValueError(
            f"{needed_by} needs the Python package {package}, which is not installed:"
            f" install it with `pip install 'holdfast[{name}]'`,"
            f" or beside a pipx installation with `pipx inject holdfast {package}`"
        ) from error


def open_strategy(
    name: str, *, redis_url: str | None = None, zookeeper_hosts: str | None = None
) -> Strategy:
    """Return the strategy of that name. Raises `ValueError` as `check_strategy` does."""
    check_strategy(name, redis_url, zookeeper_hosts)
    makers: dict[str, Callable[[], Strategy]] = {
        StrategyName.GUARD: Guard,
        StrategyName.VERSION: Version,
        StrategyName.PESSIMISTIC: Pessimistic,
        StrategyName.SERIALIZABLE: Serializable,
        StrategyName.ADVISORY: Advisory,
        StrategyName.REDIS: lambda: _open_redis(str(redis_url)),
        StrategyName.ZOOKEEPER: lambda: _open_zookeeper(str(zookeeper_hosts)),
    }
    return makers[name]()


def _open_redis(url: str) -> Strategy:
    from db.strategies.redis import Redis  # noqa: PLC0415 - its client is an extra

    return Redis(url)


def _open_zookeeper(hosts: str) -> Strategy:
    from db.strategies.zookeeper import ZooKeeper  # noqa: PLC0415 - its client is an extra

    return ZooKeeper(hosts)
