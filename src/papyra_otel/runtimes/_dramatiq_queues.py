"""How many messages wait in a broker's queues: read only, and over a connection of our own.

dramatiq's own ``do_qsize`` is not read only: it renews the heartbeat by which dead workers are found, and may move
their messages. A connection taken from the application's pool could be the one that the application then lacks; one
that is kept between audits would be closed by servers and proxies that count idle time.
"""

from __future__ import annotations

import sys
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, NamedTuple

__all__ = ["Depths", "read_queues"]

_TIMEOUT_SECONDS = 2.0


class Depths(NamedTuple):
    """Messages by queue that are not acknowledged yet, waiting or being handled; and how many are dead letters."""

    by_queue: dict[str, int]
    dead: int


def read_queues(broker: Any) -> Depths | None:
    """Return what waits at *broker*, or None where there is no way to tell, or no right to.

    Raises what redis-py raises when a server cannot be reached, after at most a few seconds. Any thread may ask.
    """
    if _is_a(broker, "dramatiq.brokers.stub", "StubBroker"):
        waiting = {name: queue.unfinished_tasks for name, queue in list(broker.queues.items())}
        return Depths(waiting, sum(map(len, list(broker.dead_letters_by_queue.values()))))
    if _is_a(broker, "dramatiq.brokers.redis", "RedisBroker"):
        return _read_redis(broker)
    return None


def _read_redis(broker: Any) -> Depths | None:
    from redis import RedisError  # noqa: PLC0415 - only where the application uses Redis
    from redis.exceptions import ResponseError  # noqa: PLC0415 - same

    declared = sorted(broker.get_declared_queues())
    waiting = [*declared, *sorted(broker.get_declared_delay_queues())]
    commands = [("HLEN", f"{broker.namespace}:{queue}.msgs") for queue in waiting]
    commands += [("ZCARD", f"{broker.namespace}:{queue}.XQ") for queue in declared]
    try:
        with _connected(broker.client.connection_pool) as connection:
            connection.send_packed_command(connection.pack_commands(commands))
            counts: list[int] = [connection.read_response() for _ in commands]
    except ResponseError:  # not allowed to look
        return None
    except (RedisError, OSError):
        raise
    except Exception:  # a client or a pool of somebody's own making
        return None
    return Depths(dict(zip(waiting, counts, strict=False)), sum(counts[len(waiting) :]))


@contextmanager
def _connected(pool: Any) -> Generator[Any]:
    from redis.backoff import NoBackoff  # noqa: PLC0415 - see above
    from redis.retry import Retry  # noqa: PLC0415 - see above

    patience = {
        name: min(pool.connection_kwargs.get(name) or _TIMEOUT_SECONDS, _TIMEOUT_SECONDS)
        for name in ("socket_timeout", "socket_connect_timeout")
    }
    hasty: dict[str, Any] = {"retry": Retry(NoBackoff(), 0), "retry_on_timeout": False, "retry_on_error": []}
    connection = pool.connection_class(**{**pool.connection_kwargs, **patience, **hasty})
    try:
        connection.connect()
        yield connection
    finally:
        connection.disconnect()


def _is_a(broker: object, module: str, name: str) -> bool:
    """Say whether *broker* is one of these, without importing them: they may not be installed."""
    kind = getattr(sys.modules.get(module), name, None)
    return isinstance(kind, type) and isinstance(broker, kind)
