"""Connections to the servers: commands go out as they are, raw replies come back, and nothing is tried twice.

Of redis-py this uses the connections (protocol, TLS, authentication), not the clients: those repeat commands by
themselves, which would store a fact twice, and WAIT has to follow its command on the very same connection. So
instrumentations of those clients never see what goes on here, either.
"""

from __future__ import annotations

import binascii
import os
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, TypeAlias

import redis
from redis.backoff import NoBackoff
from redis.exceptions import ClusterDownError
from redis.retry import Retry

from papyra_otel.errors import LogUnavailable
from papyra_otel.log.redis.address import Address, Topology
from papyra_otel.log.redis.trouble import Moved, is_no_primary, moved_by, translated, unavailable

__all__ = ["Command", "Node", "Reply", "Wire", "connect", "slot_of"]

Command: TypeAlias = tuple[Any, ...]  # str, bytes, int
Reply: TypeAlias = (
    Any  # bytes, int, None, lists of these, maps of these, or an error that the server answered
)
_SLOTS = 16384
_REDIRECTIONS_MAX = 5
_IDLE_MAX = 8


class Wire(Protocol):
    """The way to the servers. Any thread may use it."""

    def send(self, key: str, commands: Sequence[Command]) -> list[Reply]:
        """Send *commands* in one go to the primary that has *key*, all on one connection; return every reply.

        What the server refused is an error in its place in the list. Raises LogUnavailable when it cannot be reached
        or does not answer in time: what was sent may have been done then, or not.
        """
        ...

    def nodes(self) -> list[Node]:
        """Return every primary there is."""
        ...

    def close(self) -> None:
        """Give up all connections."""
        ...


class Node:
    """One server: makes connections, keeps the idle ones. Thread-safe; a forked child makes its own."""

    def __init__(self, make: Callable[[], Any], shown: str) -> None:
        self.shown = shown
        self._make = make
        self._lock = threading.Lock()
        self._idle: list[Any] = []
        self._pid = os.getpid()

    def send(self, commands: Sequence[Command]) -> list[Reply]:
        """See ``Wire.send``."""
        with translated(self.shown), self._connection() as connection:
            connection.send_packed_command([_packed(commands)])
            replies: list[Reply] = []
            for _ in commands:
                try:
                    replies.append(connection.read_response())
                except redis.ResponseError as error:
                    replies.append(error)
            return replies

    @contextmanager
    def _connection(self) -> Generator[Any]:
        connection = self._taken() or self._make()
        kept = False
        try:
            connection.connect()
            yield connection
            kept = True
        finally:
            if kept:
                self._give_back(connection)
            else:  # replies may be on their way that nobody would understand
                connection.disconnect()

    def _taken(self) -> Any:
        with self._lock:
            if self._pid != os.getpid():  # the parent's sockets
                self._idle.clear()
                self._pid = os.getpid()
            while self._idle:
                connection = self._idle.pop()
                try:
                    if not connection.can_read(timeout=0):
                        return connection
                except (redis.ConnectionError, OSError, ValueError):
                    pass
                connection.disconnect()  # closed by the server, or something is left unread
        return None

    def _give_back(self, connection: Any) -> None:
        with self._lock:
            if len(self._idle) < _IDLE_MAX and self._pid == os.getpid():
                self._idle.append(connection)
                return
        connection.disconnect()

    def after_fork_in_child(self) -> None:
        """Forget the parent's connections, and whoever held the lock."""
        self._lock = threading.Lock()
        self._idle = []

    def close(self) -> None:
        """Give up the idle connections; those in use are given up when they come back."""
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.disconnect()


def _packed(commands: Sequence[Command]) -> bytes:
    """Return *commands* as the protocol has them, in one piece: a batch is sent with one call of the kernel."""
    pieces: list[bytes] = []
    for command in commands:
        pieces.append(b"*%d\r\n" % len(command))
        for argument in command:
            data = argument if type(argument) is bytes else str(argument).encode()
            pieces.append(b"$%d\r\n%b\r\n" % (len(data), data))
    return b"".join(pieces)


# --- making connections ------------------------------------------------------------------------------


def connect(address: Address) -> Wire:
    """Return the way to the servers of *address*. Nothing is connected yet."""
    if address.topology is Topology.CLUSTER:
        return _Cluster(address)
    if address.topology is Topology.SENTINEL:
        return _Sentinel(address)
    return _Single(_node(address, None))


def _node(address: Address, host: tuple[str, int] | None, *, sentinel: bool = False) -> Node:
    """Return the server at *host*, or the one that *address* names."""
    options: dict[str, Any] = {
        "db": 0 if sentinel else address.database,
        "username": address.sentinel_username if sentinel else address.username,
        "password": address.sentinel_password if sentinel else address.password,
        "client_name": address.client_name,
        "socket_timeout": address.timeout_seconds,
        "socket_connect_timeout": address.connect_timeout_seconds,
        "protocol": 3,
        "retry": Retry(NoBackoff(), 0),
        "retry_on_timeout": False,
        "health_check_interval": 0,
    }
    if address.path is not None:
        path = address.path
        unix: Any = redis.UnixDomainSocketConnection  # its types say that it is abstract
        return Node(lambda: unix(path=path, **options), f"unix:{path}")
    name, port = host or address.hosts[0]
    options |= {"host": name, "port": port, "socket_keepalive": True}
    kind: type[redis.Connection] = redis.Connection
    if address.tls:
        kind = redis.SSLConnection
        options |= {
            "ssl_ca_certs": address.tls_ca,
            "ssl_certfile": address.tls_cert,
            "ssl_keyfile": address.tls_key,
            "ssl_cert_reqs": "required" if address.tls_verify else "none",
            "ssl_check_hostname": address.tls_verify and address.tls_hostname,
        }
    return Node(lambda: kind(**options), f"{name}:{port}")


class _Single:
    """One server."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def send(self, key: str, commands: Sequence[Command]) -> list[Reply]:
        del key
        return self._node.send(commands)

    def nodes(self) -> list[Node]:
        return [self._node]

    def close(self) -> None:
        self._node.close()


# --- Sentinel --------------------------------------------------------------------------------------------


class _Sentinel:
    """The primary that the Sentinels agree on. Asked again after any trouble."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._sentinels = [_node(address, host, sentinel=True) for host in address.hosts]
        self._primary: Node | None = None

    def send(self, key: str, commands: Sequence[Command]) -> list[Reply]:
        del key
        node = self._primary or self._found()
        try:
            replies = node.send(commands)
        except LogUnavailable:
            self._forget(node)
            raise
        if any(map(is_no_primary, replies)):
            self._forget(node)
        return replies

    def nodes(self) -> list[Node]:
        return [self._primary or self._found()]

    def _forget(self, node: Node) -> None:
        self._primary = None
        node.close()

    def _found(self) -> Node:
        name = self._address.primary_name
        told: list[str] = []
        for sentinel in self._sentinels:
            try:
                (answer,) = sentinel.send([("SENTINEL", "GET-MASTER-ADDR-BY-NAME", name)])
            except LogUnavailable as error:
                told.append(f"{sentinel.shown}: {error}")
                continue
            if isinstance(answer, Exception):
                told.append(f"{sentinel.shown}: {answer}")
            elif not answer:
                told.append(f"{sentinel.shown} knows no primary called {name!r}")
            else:
                node = _node(self._address, (answer[0].decode(), int(answer[1])))
                (role,) = node.send([("ROLE",)])
                if not isinstance(role, Exception) and bytes(role[0]) == b"master":
                    self._primary = node
                    return node
                node.close()
                told.append(f"{sentinel.shown} names {node.shown}, which is no primary (yet)")
        raise LogUnavailable(
            f"{self._address.shown}: no Sentinel leads to a primary: {'; '.join(told)}",
            error_type="no_primary",
        )

    def close(self) -> None:
        for node in [*self._sentinels, *filter(None, [self._primary])]:
            node.close()


# --- Cluster ---------------------------------------------------------------------------------------------


def slot_of(key: str) -> int:
    """Return the hash slot of *key*: https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/."""
    data = key.encode()
    begin = data.find(b"{")
    end = data.find(b"}", begin + 1)
    if begin >= 0 and end > begin + 1:
        data = data[begin + 1 : end]
    return binascii.crc_hqx(data, 0) % _SLOTS


class _Cluster:
    """All primaries of a cluster. Redirections are followed; the map is asked for again after any trouble."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._lock = threading.Lock()
        self._known: dict[tuple[str, int], Node] = {host: _node(address, host) for host in address.hosts}
        self._slots: dict[int, Node] = {}

    def send(self, key: str, commands: Sequence[Command]) -> list[Reply]:
        slot = slot_of(key)
        node, asking = self._of(slot), False
        for _ in range(_REDIRECTIONS_MAX):
            try:
                replies = node.send([("ASKING",), *commands] if asking else commands)[int(asking) :]
            except LogUnavailable:
                self._slots = {}
                raise
            moved = next(filter(None, map(moved_by, replies)), None)
            if moved is None:
                if any(isinstance(reply, ClusterDownError) for reply in replies):
                    self._slots = {}
                return replies
            node, asking = self._node(self._place(moved, node)), moved.once
            if not asking:
                self._slots = {}
        raise LogUnavailable(f"{self._address.shown}: slot {slot} is sent in circles", error_type="cluster")

    def nodes(self) -> list[Node]:
        self._of(0)
        return list(dict.fromkeys(self._slots.values()))

    def _of(self, slot: int) -> Node:
        slots = self._slots or self._asked()
        node = slots.get(slot)
        if node is None:
            self._slots = {}
            raise LogUnavailable(
                f"{self._address.shown}: no node of the cluster serves slot {slot} now", error_type="cluster"
            )
        return node

    def _asked(self) -> dict[int, Node]:
        """Ask one node after the other which slots are where."""
        told: list[str] = []
        for node in list(self._known.values()):
            try:
                (ranges,) = node.send([("CLUSTER", "SLOTS")])
            except LogUnavailable as error:
                told.append(f"{node.shown}: {error}")
                continue
            if isinstance(ranges, Exception):
                told.append(f"{node.shown}: {unavailable(node.shown, ranges)}")
                continue
            slots: dict[int, Node] = {}
            for first, last, primary, *_ in ranges:
                host = primary[0].decode() if primary[0] else node.shown.rpartition(":")[0]
                slots.update(dict.fromkeys(range(first, last + 1), self._node((host, primary[1]))))
            if slots:
                self._slots = slots
                return slots
            told.append(f"{node.shown} knows of no slots")
        raise LogUnavailable(
            f"{self._address.shown}: no node of the cluster answers: {'; '.join(told)}", error_type="cluster"
        )

    def _place(self, moved: Moved, node: Node) -> tuple[str, int]:
        return moved.host or node.shown.rpartition(":")[0], moved.port

    def _node(self, host: tuple[str, int]) -> Node:
        with self._lock:
            return self._known.get(host) or self._known.setdefault(host, _node(self._address, host))

    def close(self) -> None:
        for node in list(self._known.values()):
            node.close()
