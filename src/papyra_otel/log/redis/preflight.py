"""What about the servers could lose facts without a word, or keep us from recording. Looks only; changes nothing.

INFO is asked for, which managed services allow; what only CONFIG or ACL would tell is looked at where they are allowed,
and named where not.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final, TypeAlias, cast

import redis

from papyra_otel.errors import LogUnavailable
from papyra_otel.log.redis.address import Address, Durability
from papyra_otel.log.redis.keys import Tag, index_key
from papyra_otel.log.redis.survey import as_map
from papyra_otel.log.redis.trouble import unavailable
from papyra_otel.log.redis.wire import Command, Node, Reply, Wire
from papyra_otel.reports import Check

__all__ = ["preflight", "risks"]

OLDEST: Final = (6, 2)
_CLOCKS_APART_SECONDS_MAX: Final = 5.0
_MEMORY_SHARE_MAX: Final = 0.9
_NANOS: Final = 1_000_000_000
_Info: TypeAlias = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class _Server:
    """What one server says of itself; *config* lacks what may not be asked for, *knows_waitaof* is None then."""

    shown: str
    info: _Info
    config: _Info
    knows_waitaof: bool | None
    time_seconds: float | None


def risks(address: Address, wire: Wire, clock: Callable[[], int]) -> tuple[Check, ...]:
    """Look at the settings of every primary that lose facts silently. Raises LogUnavailable."""
    nodes = wire.nodes()
    found = [check for node in nodes for check in _risks_of(address, _ask(address, node), clock)]
    return tuple(_joined(found, len(nodes)))


def preflight(address: Address, wire: Wire, clock: Callable[[], int]) -> tuple[Check, ...]:
    """Look whether facts could be recorded, and kept. Never raises for what it finds."""
    try:
        nodes = wire.nodes()
        servers = [_ask(address, node) for node in nodes]
    except LogUnavailable as error:
        remedy = (
            "facts wait in memory while the server is away; with startup=fail the application would not start"
        )
        return (Check(name="server", ok=False, detail=str(error), remedy=remedy),)
    found = [check for server in servers for check in (_server(server), *_risks_of(address, server, clock))]
    found += [check for node in nodes for check in _rights(address, node)]
    return tuple(_joined(found, len(nodes)))


def _joined(checks: Iterable[Check], servers: int) -> Iterator[Check]:
    """Yield what is wrong on any server, and what is right on all of them once."""
    by_name: dict[str, list[Check]] = {}
    for check in checks:
        by_name.setdefault(check.name, []).append(check)
    for found in by_name.values():
        wrong = [check for check in found if not check.ok]
        if wrong:
            yield from wrong
        else:
            suffix = f" (and so on {servers} servers)" if servers > 1 else ""
            yield replace(found[0], detail=found[0].detail + suffix)


# --- asking -------------------------------------------------------------------------------------------


def _ask(address: Address, node: Node) -> _Server:
    commands: list[Command] = [
        ("INFO",),
        ("TIME",),
        ("CONFIG", "GET", "save"),
        ("CONFIG", "GET", "appendfsync"),
        ("COMMAND", "INFO", "WAITAOF"),
        ("CLUSTER", "INFO"),
    ]
    info, time, *config, waitaof, cluster = node.send(commands)
    if isinstance(info, redis.RedisError):
        raise unavailable(address.shown, info)
    told = _text(info) + ("" if isinstance(cluster, redis.RedisError) else f"\n{_text(cluster)}")
    known: dict[str, str] = {}
    for reply in config:
        if not isinstance(reply, redis.RedisError):
            known.update({_text(name): _text(value) for name, value in as_map(reply).items()})
    return _Server(
        shown=node.shown,
        info=dict(re.findall(r"^([a-z_0-9]+):(.*?)\r?$", told, re.MULTILINE)),
        config=known,
        knows_waitaof=None if isinstance(waitaof, redis.RedisError) else _knows(waitaof),
        time_seconds=None if isinstance(time, redis.RedisError) else int(time[0]) + int(time[1]) / 1_000_000,
    )


def _knows(commands: Reply) -> bool:
    return any(cast("Iterable[object]", commands.values() if isinstance(commands, dict) else commands))


def _text(data: bytes | str) -> str:
    return data.decode(errors="replace") if isinstance(data, bytes) else data


# --- looking ------------------------------------------------------------------------------------------


def _server(server: _Server) -> Check:
    info = server.info
    name, text = ("Valkey", info["valkey_version"]) if "valkey_version" in info else ("Redis", "")
    text = text or info.get("redis_version", "")
    compatible = tuple(map(int, re.findall(r"\d+", info.get("redis_version", ""))[:2]))
    return Check(
        name="server",
        ok=compatible >= OLDEST,
        detail=f"{name} {text or 'of an unknown version'} at {server.shown}",
        remedy=None if compatible >= OLDEST else "the log needs Redis 6.2 or newer, or Valkey",
    )


def _risks_of(address: Address, server: _Server, clock: Callable[[], int]) -> Iterator[Check]:
    yield _role(server)
    yield _eviction(server)
    yield _memory(server)
    yield _persistence(address, server)
    if address.durability is not Durability.REPLY:
        yield _durability(address, server)
    if server.info.get("cluster_enabled") == "1" and "cluster_state" in server.info:
        state = server.info["cluster_state"]
        yield Check(
            name="cluster",
            ok=state == "ok",
            detail=f"{server.shown}: cluster_state is {state}",
            remedy=None if state == "ok" else "some slots have no primary: facts of their systems wait",
        )
    yield _clock(server, clock)


def _role(server: _Server) -> Check:
    is_primary = server.info.get("role") == "master"
    return Check(
        name="role",
        ok=is_primary,
        detail=f"{server.shown} is {'a primary' if is_primary else 'a replica: it takes no facts'}",
        remedy=None if is_primary else "name the primary, or use redis+sentinel://",
    )


def _eviction(server: _Server) -> Check:
    policy = server.info.get("maxmemory_policy", "unknown")
    limited = server.info.get("maxmemory", "0") != "0"
    if policy == "noeviction":
        return Check(name="eviction", ok=True, detail="maxmemory-policy is noeviction")
    if policy == "unknown":
        detail = f"{server.shown} does not say what it does when its memory is full"
    elif policy.startswith("volatile-"):
        detail = f"{server.shown}: maxmemory-policy is {policy}: spares the log, whose keys never expire"
    elif limited:
        detail = f"{server.shown}: maxmemory-policy is {policy}: whole streams of facts may be thrown away"
    else:
        detail = (
            f"{server.shown}: maxmemory-policy is {policy}, which throws facts away once maxmemory is set"
        )
    severe = policy.startswith("allkeys-") and limited
    return Check(
        name="eviction",
        ok=policy.startswith("volatile-"),
        severity="ERROR" if severe else "WARN",
        detail=detail,
        remedy="CONFIG SET maxmemory-policy noeviction",
    )


def _memory(server: _Server) -> Check:
    limit, used = int(server.info.get("maxmemory", "0")), int(server.info.get("used_memory", "0"))
    if not limit:
        return Check(name="memory", ok=True, detail="no limit of its own (maxmemory is 0)")
    ok = used <= _MEMORY_SHARE_MAX * limit
    return Check(
        name="memory",
        ok=ok,
        severity="WARN",
        detail=f"{server.shown}: {used / limit:.0%} of maxmemory is in use",
        remedy=None if ok else "compact the log, or raise maxmemory: a full server stores nothing more",
    )


def _persistence(address: Address, server: _Server) -> Check:
    info, config = server.info, server.config
    remedy = "CONFIG SET appendonly yes"
    failing = [
        name for name in ("aof_last_write_status", "aof_last_bgrewrite_status") if info.get(name) == "err"
    ]
    if info.get("aof_enabled") == "1":
        fsync = config.get("appendfsync")
        told = "cannot be seen from here" if fsync is None else f"is {fsync}"
        if failing:
            detail = f"{server.shown} fails to write its append-only file ({failing[0]} is err)"
            return Check(name="persistence", ok=False, detail=detail, remedy="look at its disk and its log")
        return Check(
            name="persistence",
            ok=fsync != "no",
            severity="WARN",
            detail=f"append-only file, appendfsync {told}",
            remedy="CONFIG SET appendfsync everysec" if fsync == "no" else None,
        )
    severity = "ERROR" if address.durability is Durability.AOF else "WARN"
    if "save" not in config:
        what = "no append-only file; whether there are snapshots cannot be seen from here"
    elif config["save"]:
        what = f"snapshots only (save {config['save']}): a crash loses what came after the last"
    else:
        what = "neither append-only file nor snapshots: a restart forgets every fact"
    return Check(
        name="persistence", ok=False, severity=severity, detail=f"{server.shown}: {what}", remedy=remedy
    )


def _durability(address: Address, server: _Server) -> Check:
    wanted, there = address.replicas, int(server.info.get("connected_slaves", "0"))
    if address.durability is Durability.AOF and server.knows_waitaof is False:
        return Check(
            name="durability",
            ok=False,
            detail=f"{server.shown} knows no WAITAOF, which durability=aof needs: no fact would be stored",
            remedy="Valkey, or Redis 7.2; or durability=wait, or reply with appendfsync always",
        )
    return Check(
        name="durability",
        ok=there >= wanted,
        detail=f"{server.shown}: {there} of {wanted} replicas are connected",
        remedy=None if there >= wanted else "until they are there no fact counts as stored",
    )


def _clock(server: _Server, clock: Callable[[], int]) -> Check:
    if server.time_seconds is None:
        return Check(name="clock", ok=True, detail="cannot be seen from here")
    apart = abs(server.time_seconds - clock() / _NANOS)
    ok = apart <= _CLOCKS_APART_SECONDS_MAX
    return Check(
        name="clock",
        ok=ok,
        severity="WARN",
        detail=f"{server.shown}: its clock and ours are {apart:.1f} s apart",
        remedy=None if ok else "synchronise both: facts bear our time, entries the server's",
    )


# --- rights -------------------------------------------------------------------------------------------


def _needed(address: Address) -> list[Command]:
    tag, index = Tag.new(address.prefix, "papyra"), index_key(address.prefix)
    stream = tag.key("events")
    return [
        ("EVALSHA", "0" * 40, 1, stream),
        ("EVAL", "return 1", 1, stream),
        ("TYPE", stream),
        ("XADD", stream, "*", "data", "x"),
        ("XRANGE", stream, "-", "+"),
        ("XREVRANGE", stream, "+", "-"),
        ("XLEN", stream),
        ("XDEL", stream, "1-1"),
        ("XTRIM", stream, "MINID", "1"),
        ("XINFO", "GROUPS", stream),
        ("XPENDING", stream, "group"),
        ("HGET", tag.fence, "x"),
        ("HGETALL", tag.meta),
        ("HSET", tag.fence, "x", "y"),
        ("HSETNX", tag.meta, "x", "y"),
        ("HDEL", tag.meta, "x"),
        ("RENAME", stream, tag.key("quarantine:events:1")),
        ("SADD", index, "x"),
        ("SMEMBERS", index),
        ("SCAN", "0"),
        ("MULTI",),
        ("TIME",),
        *([("WAIT", 1, 1)] if address.durability is Durability.WAIT else []),
        *([("WAITAOF", 1, 1, 1)] if address.durability is Durability.AOF else []),
    ]


def _rights(address: Address, node: Node) -> Iterator[Check]:
    """Ask whether our user may do what is needed, without doing it (ACL DRYRUN, since Redis 7.0)."""
    (who,) = node.send([("ACL", "WHOAMI")])
    if isinstance(who, redis.RedisError):
        yield Check(name="rights", ok=True, detail="not looked at: ACL may not be asked from here")
        return
    commands = _needed(address)
    replies = node.send([("ACL", "DRYRUN", who, *command) for command in commands])
    if isinstance(replies[0], redis.RedisError):
        yield Check(name="rights", ok=True, detail="not looked at: this server or user has no ACL DRYRUN")
        return
    refused = sorted(
        {str(command[0]) for command, reply in zip(commands, replies, strict=True) if _refuses(reply)}
    )
    yield Check(
        name="rights",
        ok=not refused,
        detail=f"user {_text(who)!r} may do all that is needed"
        if not refused
        else f"{node.shown}: user {_text(who)!r} may not {', '.join(refused)}, at least not on keys {address.prefix}:*",
        remedy=None if not refused else "docs/redis.md lists the commands and keys",
    )


def _refuses(reply: Reply) -> bool:
    return isinstance(reply, redis.RedisError) or bytes(reply) != b"OK"
