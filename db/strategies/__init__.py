"""How load and apply keep others out: one module for each strategy, one interface for all.

The default needs no lock at all. The others are here to be compared, to migrate from, or to live
inside an engine that wants them; nothing outside this folder asks which one is on.
"""

from collections.abc import Callable

from db.strategies.advisory import Advisory
from db.strategies.guard import Guard
from db.strategies.pessimistic import Pessimistic
from db.strategies.redis import Redis, check_url
from db.strategies.serializable import Serializable
from db.strategies.version import Version
from db.strategies.zookeeper import ZooKeeper, check_hosts
from db.vocabulary import StrategyName


def check_strategy(name: str, redis_url: str | None, zookeeper_hosts: str | None) -> None:
    """Raise `ValueError` that says which setting a strategy lacks, or what is wrong with it."""
    if name == "redis":
        if not redis_url:
            raise ValueError(
                "the strategy redis needs HOLDFAST_REDIS_URL or --redis-url, as redis://host:port/0"
            )
        check_url(redis_url)
    if name == "zookeeper":
        if not zookeeper_hosts:
            raise ValueError(
                "the strategy zookeeper needs HOLDFAST_ZOOKEEPER_HOSTS or --zookeeper-hosts,"
                " as host:port,…"
            )
        check_hosts(zookeeper_hosts)


def open_strategy(
    name: str, *, redis_url: str | None = None, zookeeper_hosts: str | None = None
) -> Guard:
    """Return the strategy of that name. Raises `ValueError` as `check_strategy` does."""
    check_strategy(name, redis_url, zookeeper_hosts)
    makers: dict[str, Callable[[], Guard]] = {
        StrategyName.GUARD: Guard,
        StrategyName.VERSION: Version,
        StrategyName.PESSIMISTIC: Pessimistic,
        StrategyName.SERIALIZABLE: Serializable,
        StrategyName.ADVISORY: Advisory,
        StrategyName.REDIS: lambda: Redis(str(redis_url)),
        StrategyName.ZOOKEEPER: lambda: ZooKeeper(str(zookeeper_hosts)),
    }
    return makers[name]()
