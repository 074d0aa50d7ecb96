"""A cluster of at least three primaries on loopback, formed without redis-cli."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack, closing, suppress
from typing import Any

import redis
from redis.crc import key_slot

from redis_servers.flavours import Flavour
from redis_servers.processes import BUS_OFFSET
from redis_servers.proxy import Proxy
from redis_servers.server import Option, Server
from redis_servers.waiting import until

SLOTS = 16_384

_FORGIVE = (redis.RedisError, OSError)


class Cluster:
    """*primaries* nodes that share the slots evenly, each with a replica if *replicas*, up once constructed.

    With *proxied*, nodes tell clients the ports of ``proxies`` in front of them (the bus stays direct).
    *options* go to every node.
    """

    def __init__(
        self,
        flavour: Flavour = Flavour.VALKEY,
        options: Mapping[str, Option] | None = None,
        *,
        primaries: int = 3,
        replicas: bool = False,
        proxied: bool = False,
        node_timeout_ms: int = 1000,
        password: str | None = None,
    ) -> None:
        self.flavour, self.password = flavour, password
        self._settings: dict[str, Option] = {
            "cluster-enabled": True,
            "cluster-node-timeout": node_timeout_ms,
            "cluster-replica-validity-factor": 0,
            **(options or {}),
        }
        self._stack = ExitStack()
        self.nodes: list[Server] = []
        self.proxies: dict[Server, Proxy] = {}
        self._ids: dict[Server, str] = {}
        try:
            for _ in range(primaries * (2 if replicas else 1)):
                self._start_node(proxied=proxied)
            self._form(self.nodes[:primaries], self.nodes[primaries:])
        except BaseException:
            self.close()
            raise

    def _start_node(self, *, proxied: bool) -> None:
        server = Server(self.flavour, self._settings, password=self.password)
        node = self._stack.enter_context(closing(server))
        self.nodes.append(node)
        with node.new_client() as client:
            self._ids[node] = _text(client.execute_command("CLUSTER", "MYID"))
            if proxied:
                self.proxies[node] = self._stack.enter_context(closing(Proxy(node.port)))
                client.config_set("cluster-announce-ip", node.host)
                client.config_set("cluster-announce-port", self.proxies[node].port)
                client.config_set("cluster-announce-bus-port", node.port + BUS_OFFSET)
                client.config_rewrite()

    def _form(self, primaries: list[Server], replicas: list[Server]) -> None:
        share = -(-SLOTS // len(primaries))
        for number, node in enumerate(primaries):
            with node.new_client() as client:
                client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
                slots = range(number * share, min((number + 1) * share, SLOTS))
                client.execute_command("CLUSTER", "ADDSLOTS", *slots)  # 6.2 has no ADDSLOTSRANGE
        for node in self.nodes[1:]:
            self.ask(self.nodes[0], "MEET", node.host, node.port, node.port + BUS_OFFSET)
        until(
            lambda: all(self._known_to(node) == len(self.nodes) for node in self.nodes), "the nodes' meeting"
        )
        for primary, replica in zip(primaries, replicas, strict=False):
            self._replicate(replica, primary)
        self.wait_until_ok()

    def _replicate(self, replica: Server, primary: Server) -> None:
        with replica.new_client() as client:
            client.execute_command("CLUSTER", "REPLICATE", self._ids[primary])
            until(lambda: client.info("replication").get("master_link_status") == "up", f"{replica}'s link")

    def _known_to(self, node: Server) -> int:
        return int(self.info(node)["cluster_known_nodes"])

    # Questions

    def ask(self, node: Server, *command: Any) -> Any:
        """Send ``CLUSTER`` *command* to *node*."""
        with node.new_client() as client:
            return client.execute_command("CLUSTER", *command)

    def info(self, node: Server) -> dict[str, str]:
        """Return CLUSTER INFO as *node* sees it."""
        lines = _text(self.ask(node, "INFO")).splitlines()
        return dict(line.split(":", 1) for line in lines if ":" in line)

    @property
    def ports(self) -> list[int]:
        """The ports that clients use: those of the proxies if there are any."""
        return [self.proxies[node].port if node in self.proxies else node.port for node in self.nodes]

    @property
    def running(self) -> list[Server]:
        """The nodes whose processes exist."""
        return [node for node in self.nodes if node.is_running]

    def client(self, **settings: Any) -> redis.RedisCluster:
        """Return a client of the whole cluster, closed with it."""
        settings = {"host": "127.0.0.1", "port": self.ports[0], "password": self.password, **settings}
        return self._stack.enter_context(closing(redis.RedisCluster(**settings)))

    def owner(self, slot: int) -> Server:
        """Return the primary that serves *slot*, as the first running node knows."""
        for low, high, (_, _, identity, *_), *_ in self._slots(self.running[0]):
            if low <= slot <= high:
                return next(node for node, known in self._ids.items() if known == _text(identity))
        raise LookupError(f"nobody serves slot {slot}")

    def _slots(self, node: Server) -> list[Any]:
        with node.new_client() as client:
            client.set_response_callback("CLUSTER SLOTS", lambda answer, **_: answer)
            return client.execute_command("CLUSTER SLOTS")

    def owner_of(self, key: str) -> Server:
        """Return the primary that serves *key*."""
        return self.owner(key_slot(key.encode()))

    def replica_of(self, primary: Server) -> Server:
        """Return the running replica of *primary*, as it was formed or became since."""
        for node in self.running:
            with node.new_client() as client:
                info = client.info("replication")
            if info["role"] == "slave" and info["master_port"] == self.ports[self.nodes.index(primary)]:
                return node
        raise LookupError(f"{primary} has no replica")

    def wait_until_ok(self, *, seconds: float = 30.0) -> None:
        """Return when every running node says ``cluster_state:ok``."""

        def all_ok() -> bool:
            return all(self.info(node)["cluster_state"] == "ok" for node in self.running)

        until(all_ok, "cluster_state:ok", seconds=seconds, forgive=_FORGIVE)

    # Faults and changes

    def wait_for_failover(self, key: str, *, from_node: Server, seconds: float = 30.0) -> Server:
        """Return who serves *key*, when that is no longer *from_node* in the eyes of all running nodes."""

        def moved() -> bool:
            others = [node for node in self.running if node is not from_node]
            return all(self._port_for(node, key) not in {None, self._port_of(from_node)} for node in others)

        until(moved, f"failover from {from_node}", seconds=seconds, forgive=_FORGIVE)
        self.wait_until_ok(seconds=seconds)
        return self.owner_of(key)

    def _port_of(self, node: Server) -> int:
        return self.ports[self.nodes.index(node)]

    def _port_for(self, node: Server, key: str) -> int | None:
        """Return the port where *key* is served, according to *node*."""
        slot = key_slot(key.encode())
        found = (int(at[1]) for low, high, at, *_ in self._slots(node) if low <= slot <= high)
        return next(found, None)

    def begin_migration(self, slot: int, *, to: Server) -> None:
        """Open *slot* for its move: keys that its owner does not have are answered with ASK from now on."""
        source = self.owner(slot)
        self.ask(to, "SETSLOT", slot, "IMPORTING", self._ids[source])
        self.ask(source, "SETSLOT", slot, "MIGRATING", self._ids[to])

    def move_keys(self, slot: int, *, to: Server) -> int:
        """Move the keys of the opened *slot*; return how many. Then all of them are answered with ASK."""
        moved = 0
        auth = ["AUTH", self.password] if self.password else []
        with self.owner(slot).new_client() as client:
            while keys := client.execute_command("CLUSTER", "GETKEYSINSLOT", slot, 100):
                where = [to.host, to.port, "", 0, 5000]
                client.execute_command("MIGRATE", *where, *auth, "KEYS", *keys)
                moved += len(keys)
        return moved

    def end_migration(self, slot: int, *, to: Server) -> None:
        """Give *slot* to its new owner: the others answer with MOVED from now on."""
        for node in [to, *(node for node in self.running if node is not to)]:
            with suppress(redis.ResponseError):  # a replica has no say
                self.ask(node, "SETSLOT", slot, "NODE", self._ids[to])
        until(lambda: self.owner(slot) is to, f"slot {slot} on {to}")

    def migrate(self, slot: int, *, to: Server) -> int:
        """Move *slot* with its keys; return how many there were."""
        self.begin_migration(slot, to=to)
        moved = self.move_keys(slot, to=to)
        self.end_migration(slot, to=to)
        return moved

    def close(self) -> None:
        """End everything; a second time does nothing."""
        self._stack.close()


def _text(answer: bytes | str) -> str:
    return answer.decode() if isinstance(answer, bytes) else answer
