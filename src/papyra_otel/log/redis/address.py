"""Which server, and how to speak to it: what a log URL says, checked."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from enum import Enum
from typing import Any, Final
from urllib.parse import parse_qsl, unquote

from papyra_otel.errors import ConfigError
from papyra_otel.payload import redact_url

__all__ = ["OPTIONS", "Address", "Durability", "Topology", "parse_address"]

PORT: Final = 6379
SENTINEL_PORT: Final = 26379
SHARDS_MAX: Final = 64
_WAIT_SECONDS: Final = 1.0


class Topology(str, Enum):
    """How the server that takes writes is found."""

    SINGLE = "single"
    SENTINEL = "sentinel"
    CLUSTER = "cluster"


class Durability(str, Enum):
    """What an acknowledged fact has survived.

    ``reply``: the primary has it in memory (and in its append-only file as far as ``appendfsync`` says).
    ``wait``: as many replicas as asked for have it, too. ``aof``: it is forced to the disk of the primary, and of as
    many replicas as asked for.
    """

    REPLY = "reply"
    WAIT = "wait"
    AOF = "aof"


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """What a log URL says. Times in seconds. ``repr`` and *shown* mask what is secret.

    *hosts* are the servers, the Sentinels, or some nodes of the cluster; empty with *path*, a Unix socket.
    """

    shown: str
    topology: Topology = Topology.SINGLE
    hosts: tuple[tuple[str, int], ...] = ()
    path: str | None = None
    primary_name: str = ""
    database: int = 0
    username: str | None = None
    password: str | None = None
    sentinel_username: str | None = None
    sentinel_password: str | None = None
    tls: bool = False
    tls_ca: str | None = None
    tls_cert: str | None = None
    tls_key: str | None = None
    tls_verify: bool = True
    tls_hostname: bool = True
    prefix: str = "papyra"
    shards: int = 1
    durability: Durability = Durability.REPLY
    replicas: int = 0
    client_name: str = "papyra-otel"
    connect_timeout_seconds: float = 2.0
    timeout_seconds: float = 5.0
    wait_timeout_seconds: float = _WAIT_SECONDS

    def __repr__(self) -> str:
        shown = (f"{f.name}={_masked(f.name, getattr(self, f.name))!r}" for f in fields(self))
        return f"Address({', '.join(shown)})"


def _masked(name: str, value: object) -> object:
    return "***" if value is not None and name.endswith(("password", "username")) else value


_SCHEMES: Mapping[str, tuple[Topology, bool]] = {
    "redis": (Topology.SINGLE, False),
    "rediss": (Topology.SINGLE, True),
    "unix": (Topology.SINGLE, False),
    "redis+unix": (Topology.SINGLE, False),
    "redis+sentinel": (Topology.SENTINEL, False),
    "rediss+sentinel": (Topology.SENTINEL, True),
    "redis+cluster": (Topology.CLUSTER, False),
    "rediss+cluster": (Topology.CLUSTER, True),
}


def parse_address(url: str) -> Address:
    """Read a log URL. Raises ConfigError saying what is wrong with it, without its secrets.

    ``redis://[user:password@]host[:port][/database]``, ``rediss://`` the same over TLS, ``unix:///path/to/socket``,
    ``redis+sentinel://[user:password@]sentinel[:port][,...]/primary-name[/database]``,
    ``redis+cluster://[user:password@]node[:port][,...]``; ``rediss+...`` over TLS; options as a query.
    User, password and path are percent-encoded where they hold ``@ : / ? # %``.
    """
    wrong = _Wrong(url)
    scheme, separator, rest = url.partition("://")
    if not separator:  # unix:/path
        scheme, _, rest = url.partition(":")
    if scheme not in _SCHEMES:
        raise wrong(f"{scheme} is no scheme of a Redis log; there are {', '.join(_SCHEMES)}")
    topology, tls = _SCHEMES[scheme]
    rest, _, query = rest.partition("?")
    if "#" in rest + query:
        raise wrong("has a fragment; write # as %23")
    found: dict[str, Any] = {"topology": topology, "tls": tls} | _options(query, wrong)
    if "timeout_seconds" in found:
        found.setdefault("wait_timeout_seconds", min(_WAIT_SECONDS, found["timeout_seconds"] / 2))
    credentials, at, rest = rest.rpartition("@")
    if at:
        username, _, password = credentials.partition(":")
        found |= {"username": unquote(username) or None, "password": unquote(password) or None}
    if scheme.endswith("unix"):
        if not rest.startswith("/"):
            raise wrong(f"names no socket; write {scheme}:///path/to/socket")
        return _consistent(Address(shown=redact_url(url), path=unquote(rest), **found), wrong)
    authority, _, path = rest.partition("/")
    port = SENTINEL_PORT if topology is Topology.SENTINEL else PORT
    found["hosts"] = tuple(_host(part, port, wrong) for part in authority.split(","))
    if topology is Topology.SINGLE and len(found["hosts"]) > 1:
        raise wrong("names several servers; several are for redis+sentinel:// and redis+cluster://")
    return _consistent(Address(shown=redact_url(url), **{**_path(topology, path, wrong), **found}), wrong)


def _consistent(address: Address, wrong: _Wrong) -> Address:
    """Refuse what contradicts itself."""
    if address.durability is Durability.WAIT and address.replicas == 0:
        address = replace(address, replicas=1)
    if address.durability is Durability.REPLY and address.replicas:
        raise wrong("replicas goes with durability=wait or durability=aof")
    if address.wait_timeout_seconds >= address.timeout_seconds:
        raise wrong("wait_timeout has to be shorter than timeout")
    given = [name for name in ("tls_ca", "tls_cert", "tls_key") if getattr(address, name) is not None]
    if not address.tls and (given or not (address.tls_verify and address.tls_hostname)):
        raise wrong("has options for TLS, but speaks without; write rediss://")
    if (address.tls_cert is None) != (address.tls_key is None):
        raise wrong("tls_cert and tls_key go together")
    return address


class _Wrong:
    """Makes the errors about one URL."""

    def __init__(self, url: str) -> None:
        self._shown = redact_url(url)

    def __call__(self, what: str) -> ConfigError:
        return ConfigError(f"log URL {self._shown!r}: {what}")


def _path(topology: Topology, path: str, wrong: _Wrong) -> dict[str, Any]:
    parts = [unquote(part) for part in path.split("/")] if path else []
    found: dict[str, Any] = {}
    if topology is Topology.SENTINEL:
        if not parts or not parts[0]:
            raise wrong("names no primary; write redis+sentinel://sentinel:26379/primary-name")
        found["primary_name"] = parts.pop(0)
    if parts and parts != [""]:
        if topology is Topology.CLUSTER:
            raise wrong("names a database; a cluster has only one")
        if len(parts) > 1 or not re.fullmatch(r"\d{1,5}", parts[0], re.ASCII):
            raise wrong(f"{'/'.join(parts)!r} is not the number of a database")
        found["database"] = int(parts[0])
    return found


def _host(text: str, port: int, wrong: _Wrong) -> tuple[str, int]:
    match = re.fullmatch(r"(\[[0-9A-Fa-f:.%]+\]|[^\[\]:/@\s]+)(?::(\d{1,5}))?", text, re.ASCII)
    if match is None or not 0 < int(match[2] or port) < 1 << 16:
        raise wrong(f"{redact_url(text)!r} is not host or host:port")
    return match[1].strip("[]"), int(match[2] or port)


# --- options -------------------------------------------------------------------------------------------


def _options(query: str, wrong: _Wrong) -> dict[str, Any]:
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query))
    except ValueError:
        raise wrong("its query is not name=value&name=value") from None
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name not in OPTIONS:
            raise wrong(f"{name!r} is not an option; there are {', '.join(OPTIONS)}")
        field, read, form = OPTIONS[name]
        if field in found:
            raise wrong(f"{name} is given twice")
        try:
            found[field] = read(value)
        except ValueError:
            shown = "" if "password" in name else f"={value[:100]!r}"
            raise wrong(f"{name}{shown} is not {form}") from None
    return found


def _text(value: str) -> str:
    if not value:
        raise ValueError
    return value


def _client_name(value: str) -> str:
    if not re.fullmatch(r"[!-~]{1,200}", value):
        raise ValueError
    return value


def _prefix(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_.:-]{1,100}", value):
        raise ValueError
    return value


def _number(least: int, most: int) -> Callable[[str], int]:
    def read(value: str) -> int:
        if not re.fullmatch(r"\d{1,9}", value, re.ASCII) or not least <= int(value) <= most:
            raise ValueError
        return int(value)

    return read


def _seconds(value: str) -> float:
    match = re.fullmatch(r"(\d{1,6}(?:\.\d{1,6})?)(ms|s|)", value, re.ASCII)
    seconds = 0.0 if match is None else float(match[1]) * (0.001 if match[2] == "ms" else 1.0)
    if seconds <= 0:
        raise ValueError
    return seconds


def _flag(value: str) -> bool:
    if value not in {"true", "false"}:
        raise ValueError
    return value == "true"


_TIME = "a time such as 2, 2s or 500ms"

OPTIONS: Mapping[str, tuple[str, Callable[[str], Any], str]] = {
    "durability": ("durability", Durability, "one of reply, wait, aof"),
    "replicas": ("replicas", _number(0, 100), "a number of replicas from 0 to 100"),
    "shards": ("shards", _number(1, SHARDS_MAX), f"a number of shards from 1 to {SHARDS_MAX}"),
    "prefix": ("prefix", _prefix, "up to 100 letters, digits and _ . : -"),
    "client_name": ("client_name", _client_name, "printable ASCII without spaces"),
    "timeout": ("timeout_seconds", _seconds, _TIME),
    "connect_timeout": ("connect_timeout_seconds", _seconds, _TIME),
    "wait_timeout": ("wait_timeout_seconds", _seconds, _TIME),
    "username": ("username", _text, "a name"),
    "password": ("password", _text, "a password"),
    "sentinel_username": ("sentinel_username", _text, "a name"),
    "sentinel_password": ("sentinel_password", _text, "a password"),
    "tls_ca": ("tls_ca", _text, "a file"),
    "tls_cert": ("tls_cert", _text, "a file"),
    "tls_key": ("tls_key", _text, "a file"),
    "tls_verify": ("tls_verify", _flag, "true or false"),
    "tls_hostname": ("tls_hostname", _flag, "true or false"),
}
