"""A primary with its replica, watched by three sentinels, with a network between them that can break.

Every node and sentinel has a loopback address of its own, from which it connects to the others. All the
others, and clients, reach a node through its proxy, which tells them apart by those addresses: so a primary
may be cut off from its peers while clients still write to it. Linux only: elsewhere there is but 127.0.0.1.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import Any

import redis

from redis_servers.flavours import Flavour
from redis_servers.proxy import Proxy
from redis_servers.server import Option, Server
from redis_servers.waiting import until

NAME = "papyra"
"""What the sentinels call the group."""

_CLIENTS = "127.0.0.1"
_NODES = ("127.0.0.11", "127.0.0.12")
_SENTINELS = ("127.0.0.21", "127.0.0.22", "127.0.0.23")
_FORGIVE = (redis.RedisError, OSError)
_HURRIED = ("INFO-PERIOD", 500, "PUBLISH-PERIOD", 200, "TILT-PERIOD", 1000)
"""In ms. When the machine stood still for two seconds a sentinel does nothing for the tilt period: 30 s by default."""


@dataclass(frozen=True, slots=True)
class Node:
    """A server that holds data, and the proxy through which everybody reaches it."""

    server: Server
    front: Proxy
    host: str

    @property
    def port(self) -> int:
        """The port that the sentinels tell clients."""
        return self.front.port

    def role(self) -> str:
        """Return ``master`` or ``slave``, asked directly."""
        with self.server.new_client() as client:
            return str(client.info("replication")["role"])


class Replicated:
    """A primary, a replica and three sentinels (quorum 2), all in agreement once constructed.

    *options* go to both nodes, for instance ``min-replicas-to-write``. The sentinels call a node down after
    *down_after_ms*.
    """

    def __init__(
        self,
        flavour: Flavour = Flavour.VALKEY,
        options: Mapping[str, Option] | None = None,
        *,
        password: str | None = None,
        down_after_ms: int = 500,
    ) -> None:
        self.flavour, self.password = flavour, password
        self._stack = ExitStack()
        self.nodes: list[Node] = []
        self.sentinels: list[Server] = []
        try:
            for host in _NODES:
                self.nodes.append(self._start_node(host, options or {}))
            self._join(self.nodes[1], to=self.nodes[0])
            for host in _SENTINELS:
                self.sentinels.append(self._start_sentinel(host, down_after_ms))
            self.wait_until_whole()
        except BaseException:
            self.close()
            raise

    def _start_node(self, host: str, options: Mapping[str, Option]) -> Node:
        settings = {**_at_home(host, self.flavour), "repl-timeout": 5, **options}
        server = self._stack.enter_context(closing(Server(self.flavour, settings, password=self.password)))
        front = self._stack.enter_context(closing(Proxy(server.port)))
        with server.new_client() as client:
            client.config_set("replica-announce-ip", _CLIENTS)
            client.config_set("replica-announce-port", front.port)
            client.config_rewrite()
        return Node(server, front, host)

    def _join(self, node: Node, *, to: Node) -> None:
        with node.server.new_client() as client:
            client.replicaof(_CLIENTS, to.port)
            client.config_rewrite()
            until(lambda: client.info("replication")["master_link_status"] == "up", "the replica's link")

    def _start_sentinel(self, host: str, down_after_ms: int) -> Server:
        lines = [
            f"monitor {NAME} {_CLIENTS} {self.nodes[0].port} 2",
            f"down-after-milliseconds {NAME} {down_after_ms}",
            f"failover-timeout {NAME} {max(4 * down_after_ms, 2000)}",
            *([f"auth-pass {NAME} {self.password}"] if self.password else []),
        ]
        settings: dict[str, Option] = {**_at_home(host, self.flavour), "sentinel": lines}
        server = Server(self.flavour, settings, arguments=["--sentinel"])
        self._stack.enter_context(closing(server))
        if self.flavour is not Flavour.OLDEST:  # there they ask each 10 s and tell each 2 s, as in production
            with server.new_client() as client:
                client.execute_command("SENTINEL", "DEBUG", *_HURRIED)
        return server

    # Where clients go

    @property
    def sentinel_addresses(self) -> list[tuple[str, int]]:
        """Host and port of each sentinel, as ``redis.Sentinel`` takes them."""
        return [(sentinel.host, sentinel.port) for sentinel in self.sentinels]

    def primary_address(self) -> tuple[str, int] | None:
        """Return what most sentinels say, or None while they do not agree."""
        answers = [_ask_for_address(sentinel) for sentinel in self.sentinels if sentinel.is_running]
        return next((a for a in answers if a and answers.count(a) * 2 > len(self.sentinels)), None)

    # Who is who

    @property
    def primary(self) -> Node:
        """The node that most sentinels call the primary; waits until they agree."""
        _, port = until(self.primary_address, "agreement on a primary")
        return next(node for node in self.nodes if node.port == port)

    @property
    def replica(self) -> Node:
        """The other node."""
        return self.other(self.primary)

    def other(self, node: Node) -> Node:
        """Return the node that is not *node*."""
        return self.nodes[1 - self.nodes.index(node)]

    # Faults

    def isolate(self, node: Node, *, from_clients: bool = False) -> None:
        """Part *node* from the other and from all sentinels; *from_clients* also from who uses its ``port``."""
        peers = {*_NODES, *_SENTINELS} - {node.host}
        node.front.isolate(*peers, *([_CLIENTS] if from_clients else []))
        self.other(node).front.isolate(node.host)

    def heal(self) -> None:
        """Undo ``isolate`` and what was done to the proxies, and let paused nodes go on."""
        for node in self.nodes:
            node.front.heal()
            if node.server.is_running:
                node.server.resume()

    def wait_for_role(self, node: Node, role: str, *, seconds: float = 30.0) -> None:
        """Return when *node* itself says it is ``master`` or ``slave``."""
        try:
            until(lambda: node.role() == role, f"{node.server} as {role}", seconds=seconds, forgive=_FORGIVE)
        except TimeoutError as error:
            seen = "; ".join(map(_view, self.sentinels))
            raise TimeoutError(f"{error}; the sentinels say: {seen}") from error

    def wait_for_failover(self, old: Node, *, seconds: float = 30.0) -> Node:
        """Return the new primary, when most sentinels name it instead of *old* and it says so itself."""
        new = self.other(old)
        until(
            lambda: self.primary_address() == (_CLIENTS, new.port),
            "failover",
            seconds=seconds,
            forgive=_FORGIVE,
        )
        self.wait_for_role(new, "master", seconds=seconds)
        return new

    def fail_over_by_killing(self) -> tuple[Node, Node]:
        """Kill the primary; return it and the new one. ``old.server.start()`` brings it back as a replica."""
        old = self.primary
        old.server.kill()
        return old, self.wait_for_failover(old)

    def fail_over_by_pausing(self) -> tuple[Node, Node]:
        """Pause the primary; return it and the new one. After ``heal`` the old one is at first still a primary."""
        old = self.primary
        old.server.pause()
        return old, self.wait_for_failover(old)

    def fail_over_by_isolating(self, **how: Any) -> tuple[Node, Node]:
        """Part the primary from its peers; return it and the new one. Clients of the old one may go on writing."""
        old = self.primary
        self.isolate(old, **how)
        return old, self.wait_for_failover(old)

    def wait_until_whole(self, *, seconds: float = 40.0) -> None:
        """Return when all agree: one primary, its replica in step with it, three sentinels who know both."""
        until(self._is_whole, "agreement of nodes and sentinels", seconds=seconds, forgive=_FORGIVE)

    def _is_whole(self) -> bool:
        address = self.primary_address()
        if address is None:
            return False
        primary = next(node for node in self.nodes if node.port == address[1])
        with self.other(primary).server.new_client() as client:
            replica = client.info("replication")
        in_step = replica.get("master_link_status") == "up" and replica.get("master_port") == primary.port
        return in_step and primary.role() == "master" and all(map(self._is_informed, self.sentinels))

    def _is_informed(self, sentinel: Server) -> bool:
        with sentinel.new_client() as client:
            seen = client.sentinel_master(NAME)
        return (seen["num-slaves"], seen["num-other-sentinels"], seen["flags"]) == (1, 2, "master")

    def close(self) -> None:
        """End everything; a second time does nothing."""
        self._stack.close()


def _at_home(host: str, flavour: Flavour) -> dict[str, Option]:
    """Return the settings with which a server also listens on *host* and connects to others from there."""
    settings: dict[str, Option] = {"bind": f"{host} {_CLIENTS}"}  # 6.2 connects from the first it listens on
    if flavour is not Flavour.OLDEST:
        settings["bind-source-addr"] = host
    return settings


def _view(sentinel: Server) -> str:
    """Say how *sentinel* sees the group, for who has to find out why something did not happen."""
    try:
        with sentinel.new_client(decode_responses=True) as client:
            tilt = client.info("sentinel").get("sentinel_tilt")
            nodes = [client.sentinel_master(NAME), *client.sentinel_slaves(NAME)]
    except _FORGIVE as error:
        return f"{sentinel}: {error!r}"
    return f"{sentinel}: tilt {tilt}, " + ", ".join(
        f"{node['ip']}:{node['port']} {node['flags']} role {node.get('role-reported')}" for node in nodes
    )


def _ask_for_address(sentinel: Server) -> tuple[str, int] | None:
    """Return the primary's address according to *sentinel*, or None if it does not answer."""
    try:
        with sentinel.new_client(decode_responses=True) as client:
            answer = client.sentinel_get_master_addr_by_name(NAME)
    except _FORGIVE:
        return None
    return (str(answer[0]), int(answer[1])) if answer else None
