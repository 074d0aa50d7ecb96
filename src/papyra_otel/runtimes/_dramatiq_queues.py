"""How many messages wait in a broker's queues: read only, and over a connection of our own.

dramatiq's own ``do_qsize`` is not read only: it renews the heartbeat by which dead workers are found, and may move
their messages. A connection taken from the application's pool could be the one that the application then lacks.
"""

from __future__ import annotations

import os
import sys
import threading
from typing import Any, NamedTuple

__all__ = ["Depths", "QueueReader"]

_TIMEOUT_SECONDS = 2.0


class Depths(NamedTuple):
    """Messages by queue that are not acknowledged yet, waiting or being handled; and how many are dead letters."""

    by_queue: dict[str, int]
    dead: int


class QueueReader:
    """Reads the queues of one broker. Used by one thread at a time; others wait."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._connection: Any = None
        self._pid = os.getpid()

    def read(self, broker: Any) -> Depths | None:
        """Return what waits at *broker*, or None where there is no way to tell, or no right to.

        Raises what a Redis that cannot be reached raises, after at most a few seconds.
        """
        if (
            self._pid != os.getpid()
        ):  # a forked child: the lock may be held for ever, the socket is the parent's
            self._lock, self._connection, self._pid = threading.Lock(), None, os.getpid()
        if _is_a(broker, "dramatiq.brokers.redis", "RedisBroker"):
            with self._lock:
                return self._read_redis(broker)
        if _is_a(broker, "dramatiq.brokers.stub", "StubBroker"):
            return _read_stub(broker)
        return None

    def _read_redis(self, broker: Any) -> Depths | None:
        waiting = sorted({*broker.get_declared_queues(), *broker.get_declared_delay_queues()})
        rejected = sorted(broker.get_declared_queues())
        commands = [("HLEN", f"{broker.namespace}:{queue}.msgs") for queue in waiting]
        commands += [("ZCARD", f"{broker.namespace}:{queue}.XQ") for queue in rejected]
        if not commands:
            return Depths({}, 0)
        counts = self._ask(broker.client.connection_pool, commands)
        if counts is None:
            return None
        return Depths(dict(zip(waiting, counts, strict=False)), sum(counts[len(waiting) :]))

    def _ask(self, pool: Any, commands: list[tuple[str, str]]) -> list[int] | None:
        from redis.exceptions import ResponseError  # noqa: PLC0415 - only where the application uses Redis

        if self._connection is None:
            self._connection = _new_connection(pool)
        connection = self._connection
        try:
            connection.connect()
            connection.send_packed_command(connection.pack_commands(commands))
            return [connection.read_response() for _ in commands]
        except ResponseError:  # not allowed to look
            self._connection = None
            connection.disconnect()
            return None
        except BaseException:
            self._connection = None
            connection.disconnect()
            raise

    def close(self) -> None:
        """Give up the connection."""
        with self._lock:
            connection, self._connection = self._connection, None
            if connection is not None and self._pid == os.getpid():
                connection.disconnect()


def _new_connection(pool: Any) -> Any:
    from redis.backoff import NoBackoff  # noqa: PLC0415 - only where the application uses Redis
    from redis.retry import Retry  # noqa: PLC0415 - same

    patience = {
        name: min(pool.connection_kwargs.get(name) or _TIMEOUT_SECONDS, _TIMEOUT_SECONDS)
        for name in ("socket_timeout", "socket_connect_timeout")
    }
    hasty: dict[str, Any] = {"retry": Retry(NoBackoff(), 0), "retry_on_timeout": False, "retry_on_error": []}
    return pool.connection_class(**{**pool.connection_kwargs, **patience, **hasty})


def _read_stub(broker: Any) -> Depths:
    waiting = {name: queue.unfinished_tasks for name, queue in list(broker.queues.items())}
    return Depths(waiting, sum(len(letters) for letters in list(broker.dead_letters_by_queue.values())))


def _is_a(broker: object, module: str, name: str) -> bool:
    """Say whether *broker* is one of these, without importing them: they may not be installed."""
    kind = getattr(sys.modules.get(module), name, None)
    return isinstance(kind, type) and isinstance(broker, kind)
