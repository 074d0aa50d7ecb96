"""What the servers and the way to them have against us, in our words: what is wrong, where, and what to do."""

from __future__ import annotations

import re
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, NamedTuple, cast

import redis
from redis import exceptions

from papyra_otel.errors import LogUnavailable

__all__ = ["Moved", "is_no_primary", "moved_by", "translated", "unavailable"]

_REMEDIES: tuple[tuple[type[Exception], str, str], ...] = (
    # (error of redis-py, error type, what to do); the first that fits
    (redis.AuthenticationError, "auth", "correct user and password in the log's URL"),
    (
        exceptions.AuthenticationWrongNumberOfArgsError,
        "auth",
        "the server knows no users; leave out the user",
    ),
    (redis.BusyLoadingError, "loading", "the server reads its files; it answers when it is done"),
    (
        redis.ReadOnlyError,
        "read_only",
        "this server is a replica; name the primary, or use redis+sentinel://",
    ),
    (exceptions.OutOfMemoryError, "oom", "raise maxmemory, or compact the log"),
    (
        exceptions.NoPermissionError,
        "permission",
        "the user needs the commands and keys that docs/redis.md lists",
    ),
    (exceptions.ClusterDownError, "cluster", "the cluster has no primary for some slots"),
    (exceptions.TryAgainError, "cluster", "a slot is being moved"),
    (exceptions.ClusterCrossSlotError, "cluster", "the server is a cluster; use redis+cluster://"),
    (exceptions.MasterDownError, "no_primary", "this replica has lost its primary"),
    (exceptions.MaxConnectionsError, "connection", "the server takes no more clients"),
    (redis.TimeoutError, "timeout", "the server is too slow or the network is cut"),
    (redis.ConnectionError, "connection", "see whether the server runs and can be reached from here"),
)
_ANSWERS = (
    # (how the server's answer begins, error type, what to do)
    ("NOAUTH", "auth", "put user and password into the log's URL"),
    ("WRONGPASS", "auth", "correct user and password in the log's URL"),
    ("NOPERM", "permission", "the user needs the commands and keys that docs/redis.md lists"),
    ("OOM", "oom", "raise maxmemory, or compact the log"),
    ("MISCONF", "misconf", "the server cannot write its files; look at its disk and its log"),
    ("NOREPLICAS", "no_replicas", "fewer replicas are connected than min-replicas-to-write asks for"),
    ("READONLY", "read_only", "this server is a replica; name the primary, or use redis+sentinel://"),
    ("LOADING", "loading", "the server reads its files; it answers when it is done"),
    ("MASTERDOWN", "no_primary", "this replica has lost its primary"),
    ("CLUSTERDOWN", "cluster", "the cluster has no primary for some slots"),
    ("TRYAGAIN", "cluster", "a slot is being moved"),
    ("CROSSSLOT", "cluster", "the server is a cluster; use redis+cluster://"),
    ("MOVED", "cluster", "the server is a cluster; use redis+cluster://"),
    ("WRONGTYPE", "wrong_type", "a key of the log holds something else; papyra-otel recover moves it away"),
    ("UNBLOCKED", "connection", "the server gave up the command; it is tried again"),
    ("BUSY", "busy", "a script blocks the server"),
)
_WRAPPED = re.compile(r"(?:ERR )?(?:Error running script \(.*?\): )?(?:@\S+?:\s*\d*:?\s*)+-?(.*)", re.DOTALL)
_DENIED = ("The user executing the script can't", "ACL failure in script")
_MOVED = re.compile(r"(MOVED|ASK) \d+ (.*):(\d+)$")


class Moved(NamedTuple):
    """Where a slot is instead. Once: only for this command, while the slot is on its way (ASK)."""

    host: str
    port: int
    once: bool


def moved_by(reply: object) -> Moved | None:
    """Return where *reply* sends us, if it does."""
    if not isinstance(reply, redis.ResponseError):
        return None
    if isinstance(reply, exceptions.AskError):  # redis-py cuts the word off; a MovedError is an AskError
        moved = cast("Any", reply)
        return Moved(moved.host, moved.port, once=not isinstance(reply, exceptions.MovedError))
    match = _MOVED.match(str(reply))
    return None if match is None else Moved(match[2], int(match[3]), match[1] == "ASK")


def _unwrapped(text: str) -> str:
    """Return what was refused within a script as it is refused without. Redis 6.2 wraps it up; 7 puts it before."""
    wrapped = _WRAPPED.match(text)
    if wrapped is not None:
        text = wrapped[1]
    return f"NOPERM {text}" if text.startswith(_DENIED) else text


def is_no_primary(reply: object) -> bool:
    """Say whether *reply* refuses to write because the server is none that takes writes, not even within a script."""
    return isinstance(reply, redis.ResponseError) and unavailable("", reply).error_type in {
        "read_only",
        "no_primary",
    }


def unavailable(shown: str, error: BaseException) -> LogUnavailable:
    """Return *error* as what is told to a user of the log at *shown*."""
    text = _unwrapped(" ".join(str(error).split())) or type(error).__name__
    word = text.partition(" ")[0]
    for begin, error_type, remedy in _ANSWERS:
        if word == begin:
            return LogUnavailable(f"{shown}: {text}; {remedy}", error_type=error_type)
    if "certificate" in text.lower() or "ssl" in text.lower():
        remedy = "see that both sides speak TLS, and that tls_ca names who signed the server's certificate"
        return LogUnavailable(f"{shown}: {text}; {remedy}", error_type="tls")
    for kind, error_type, remedy in _REMEDIES:
        if isinstance(error, kind):
            return LogUnavailable(f"{shown}: {text}; {remedy}", error_type=error_type)
    return LogUnavailable(f"{shown}: {text}", error_type=type(error).__name__)


@contextmanager
def translated(shown: str) -> Generator[None]:
    """Re-raise what redis-py and the operating system raise as LogUnavailable."""
    try:
        yield
    except (redis.RedisError, OSError) as error:
        raise unavailable(shown, error) from error
