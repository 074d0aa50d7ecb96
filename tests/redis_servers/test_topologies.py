"""The tests' replicated servers and clusters: they form, fail over, part, heal and end."""

from __future__ import annotations

import pytest
import redis
from redis.sentinel import Sentinel

from redis_servers import processes
from redis_servers.flavours import Flavour
from redis_servers.lab import Lab
from redis_servers.replicated import NAME
from redis_servers.server import Server
from redis_servers.waiting import until

pytestmark = pytest.mark.redis


@pytest.fixture(autouse=True)
def nothing_is_left(shared_servers: dict[Flavour, Server]):
    yield
    assert set(processes.running()) <= {server.pid for server in shared_servers.values()}


def test_a_killed_primary_is_replaced(lab: Lab, flavour: Flavour):
    group = lab.replicated(flavour)
    sentinel = Sentinel(group.sentinel_addresses)
    first = group.primary
    with sentinel.master_for(NAME) as client:
        client.set("key", "value")
        assert client.wait(1, 5000) == 1
    old, new = group.fail_over_by_killing()
    assert old == first != new
    with sentinel.master_for(NAME) as client:
        assert client.get("key") == b"value"
    for each in sentinel.sentinels:
        each.close()
    if flavour is not Flavour.OLDEST:  # its sentinels take a quarter of a minute over it
        old.server.start()
        group.wait_until_whole()  # mostly with the old one as replica; on a busy machine it may be its turn again


def test_an_isolated_primary_takes_writes_that_healing_undoes(lab: Lab):
    group = lab.replicated(password="secret")
    old, new = group.fail_over_by_isolating()
    client = old.server.client(port=old.port)  # as who found it before: through its front, from elsewhere
    assert client.set("lost", "yes")
    assert (old.role(), new.role()) == ("master", "master")
    group.heal()
    group.wait_until_whole()
    assert group.primary == new
    assert old.server.client().get("lost") is None


def test_a_primary_without_replicas_refuses_writes_if_told_to(lab: Lab):
    group = lab.replicated(options={"min-replicas-to-write": 1, "min-replicas-max-lag": 1})
    client = group.primary.server.client()
    assert client.set("key", "value")
    group.isolate(group.primary)

    def refused() -> bool:
        try:
            client.set("key", "other")
        except redis.ResponseError as error:
            return "NOREPLICAS" in str(error)
        return False

    until(refused)


def test_a_paused_primary_is_replaced_and_told_so_when_it_wakes(lab: Lab):
    group = lab.replicated()
    old, new = group.fail_over_by_pausing()
    group.heal()
    group.wait_for_role(old, "slave")
    group.wait_until_whole()
    assert group.primary == new


def test_a_cluster_spreads_keys_and_moves_a_slot(lab: Lab, flavour: Flavour):
    cluster = lab.cluster(flavour)
    client = cluster.client()
    for number in range(30):
        client.set(f"key{number}", number)
    assert sum(node.client().dbsize() for node in cluster.nodes) == 30
    source = cluster.owner_of("key1")
    target = next(node for node in cluster.nodes if node is not source)
    slot = client.keyslot("key1")
    cluster.begin_migration(slot, to=target)
    assert cluster.move_keys(slot, to=target) == 1
    with pytest.raises(redis.ResponseError, match=str(target.port)):  # ASK
        source.client().get("key1")
    assert client.get("key1") == b"1"
    cluster.end_migration(slot, to=target)
    with pytest.raises(redis.ResponseError, match=str(target.port)):  # MOVED
        source.client().get("key1")
    assert client.get("key1") == b"1"


def test_a_cluster_replaces_a_killed_primary(lab: Lab, flavour: Flavour):
    cluster = lab.cluster(flavour, replicas=True, password="secret", node_timeout_ms=500)
    client = cluster.client()
    client.set("key", "value")
    old = cluster.owner_of("key")
    replica = cluster.replica_of(old)
    until(lambda: replica.client().dbsize() == 1)
    old.kill()
    assert cluster.wait_for_failover("key", from_node=old) is replica
    assert client.get("key") == b"value"
    old.start()
    until(lambda: cluster.replica_of(replica) is old, forgive=(LookupError, redis.ConnectionError))


def test_a_proxied_cluster_is_reached_only_through_its_proxies(lab: Lab):
    cluster = lab.cluster(proxied=True)
    client = cluster.client()
    for number in range(30):
        client.set(f"key{number}", number)
    assert {node.port for node in client.get_nodes()} == set(cluster.ports)
    assert all(proxy.accepted for proxy in cluster.proxies.values())
