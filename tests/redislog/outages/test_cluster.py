"""A cluster whose nodes die, hang, come back, and whose slots move while facts come in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, suppress
from secrets import token_hex

import pytest
import redis

from redis_servers.cluster import Cluster
from redis_servers.fixtures import require
from redis_servers.flavours import FLAVOURS, Flavour
from redis_servers.server import Server
from redis_servers.waiting import until
from redislog.outages.harness import Run, Runs

pytestmark = pytest.mark.redis

TIMEOUTS = "timeout=800ms&connect_timeout=400ms&wait_timeout=300ms"
_FORGIVE = (redis.RedisError, OSError, LookupError)


@pytest.fixture(scope="module", params=FLAVOURS)
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    with closing(Cluster(require(request.param), replicas=True, node_timeout_ms=600)) as made:
        yield made


class Member:
    """An application that writes into the cluster, and the node that has its keys."""

    def __init__(self, cluster: Cluster, runs: Runs, more: str = "") -> None:
        nodes = ",".join(f"{node.host}:{node.port}" for node in cluster.nodes)
        prefix = f"p{token_hex(4)}"
        self.cluster = cluster
        self.key = f"{prefix}:{{shop}}:events"
        self.run: Run = runs(f"redis+cluster://{nodes}?prefix={prefix}{more}", timeouts=TIMEOUTS)
        self.run.goes_on(100)

    @property
    def owner(self) -> Server:
        return self.cluster.owner_of(self.key)

    def whole(self, old: Server) -> None:
        """Go on when *old* is a replica that is in step."""

        def in_step() -> bool:
            with old.new_client() as client:
                info = client.info("replication")
            return info["role"] == "slave" and info["master_link_status"] == "up"

        until(in_step, f"{old} as a replica", seconds=30, forgive=_FORGIVE)
        self.cluster.wait_until_ok()
        self.run.goes_on()


@pytest.mark.parametrize("more", ["", "&durability=wait", "&shards=4"], ids=["reply", "wait", "shards"])
def test_a_primary_is_killed_and_its_replica_takes_over(cluster: Cluster, runs: Runs, more: str) -> None:
    if more and cluster.flavour is not Flavour.VALKEY:
        pytest.skip("tried with Valkey")
    member = Member(cluster, runs, more)
    old = member.owner
    old.kill()
    cluster.wait_for_failover(member.key, from_node=old)
    if "wait" not in more:
        member.run.goes_on()
    old.start()
    member.whole(old)
    member.run.check(loses=False)


def test_a_primary_freezes_and_its_replica_takes_over(cluster: Cluster, runs: Runs) -> None:
    if cluster.flavour is not Flavour.VALKEY:
        pytest.skip("tried with Valkey")
    member = Member(cluster, runs)
    old = member.owner
    old.pause()
    try:
        member.run.fails("timeout", "connection", "cluster")
        member.run.goes_on()  # on the replica
    finally:
        old.resume()
    member.whole(old)
    member.run.check(loses=False)


def test_a_primary_is_killed_with_its_replica_and_both_come_back_empty(cluster: Cluster, runs: Runs) -> None:
    member = Member(cluster, runs)
    old = member.owner
    replica = cluster.replica_of(old)
    replica.kill()
    old.kill()
    member.run.fails("connection", "cluster", times=2)
    old.start()
    replica.start()
    cluster.wait_until_ok()
    member.run.goes_on()
    member.run.check(loses=False)


def test_our_slot_moves_while_we_write(cluster: Cluster, runs: Runs) -> None:
    member = Member(cluster, runs)
    owner = member.owner
    target = next(node for node in _primaries(cluster) if node is not owner)
    slot = _slot(member.key)
    cluster.migrate(slot, to=target)
    member.run.goes_on()
    cluster.migrate(slot, to=owner)
    member.run.goes_on()
    member.run.check(loses=False)


def test_our_slot_moves_key_by_key_while_we_write(cluster: Cluster, runs: Runs) -> None:
    """Some keys here, some there: nothing can be written (TRYAGAIN) until the last has moved (ASK), and it is over."""
    member = Member(cluster, runs)
    owner = member.owner
    target = next(node for node in _primaries(cluster) if node is not owner)
    slot = _slot(member.key)
    cluster.begin_migration(slot, to=target)
    with owner.new_client() as client:
        client.execute_command("MIGRATE", target.host, target.port, member.key, 0, 5000)
    member.run.fails("cluster", times=2)
    cluster.move_keys(slot, to=target)
    member.run.goes_on()
    cluster.end_migration(slot, to=target)
    member.run.goes_on()
    cluster.migrate(slot, to=owner)
    member.run.check(loses=False)


def test_all_connections_are_killed_on_all_nodes_again_and_again(cluster: Cluster, runs: Runs) -> None:
    member = Member(cluster, runs)
    for _ in range(8):
        for node in cluster.nodes:
            with node.new_client() as client, suppress(redis.RedisError):
                client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        member.run.goes_on(12)
    member.run.check(loses=False)


def _primaries(cluster: Cluster) -> list[Server]:
    found = []
    for node in cluster.nodes:
        with node.new_client() as client:
            if client.info("replication")["role"] == "master":
                found.append(node)
    return found


def _slot(key: str) -> int:
    from redis.crc import key_slot

    return int(key_slot(key.encode()))
