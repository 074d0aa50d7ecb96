"""A primary and its replica, watched by Sentinels: killed, frozen, or parted from its peers but not from us."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import closing
from secrets import token_hex

import pytest

from redis_servers.fixtures import require
from redis_servers.flavours import FLAVOURS, Flavour
from redis_servers.replicated import NAME, Node, Replicated
from redislog.outages.harness import Run, Runs

pytestmark = [
    pytest.mark.redis,
    pytest.mark.skipif(sys.platform != "linux", reason="only Linux answers on all of 127.0.0.0/8"),
]

DURABILITIES = ["reply", "wait"]
TIMEOUTS = "timeout=800ms&connect_timeout=400ms&wait_timeout=300ms"


@pytest.fixture(scope="module", params=FLAVOURS)
def group(request: pytest.FixtureRequest) -> Iterator[Replicated]:
    with closing(Replicated(require(request.param))) as made:
        yield made


class Guarded:
    """An application that writes to whom the Sentinels name."""

    def __init__(self, group: Replicated, runs: Runs, durability: str, recent: int | None = None) -> None:
        group.wait_until_whole()
        sentinels = ",".join(f"{host}:{port}" for host, port in group.sentinel_addresses)
        url = f"redis+sentinel://{sentinels}/{NAME}?prefix=p{token_hex(4)}&durability={durability}"
        self.group = group
        # a ring for all that comes until a failover is over: what overflows is another test's matter
        self.run: Run = runs(url, recent_facts_max=recent, timeouts=TIMEOUTS, capacity=60_000)
        self.run.goes_on(100)

    def healed(self, old: Node) -> None:
        """Bring *old* back, as a replica, and go on until all is as it was."""
        self.group.heal()
        if not old.server.is_running:
            old.server.start()
            with old.server.new_client() as client:  # as the Sentinels would, who take their time over it
                client.replicaof("127.0.0.1", self.group.other(old).port)
        self.group.wait_for_role(old, "slave")
        self.group.wait_until_whole()
        self.run.goes_on()


def only_for(group: Replicated, *flavours: Flavour) -> None:
    """Leave the rest out: a failover takes seconds, and with the oldest Sentinels a quarter of a minute."""
    if group.flavour not in flavours:
        pytest.skip("all failovers are tried with Valkey, some with Redis, one with the oldest")


@pytest.mark.parametrize("durability", DURABILITIES)
def test_the_primary_is_killed_and_replaced(group: Replicated, runs: Runs, durability: str) -> None:
    if durability == "wait":
        only_for(group, Flavour.VALKEY)
    guarded = Guarded(group, runs, durability)
    old, _ = group.fail_over_by_killing()
    if durability == "reply":
        guarded.run.goes_on()  # without a replica
    guarded.healed(old)
    guarded.run.check(loses=False)


@pytest.mark.parametrize("durability", DURABILITIES)
def test_the_primary_is_frozen_and_replaced(group: Replicated, runs: Runs, durability: str) -> None:
    only_for(group, Flavour.VALKEY, *([Flavour.REDIS] if durability == "wait" else []))
    guarded = Guarded(group, runs, durability)
    old, _ = group.fail_over_by_pausing()
    guarded.healed(old)
    guarded.run.check(loses=False)


@pytest.mark.parametrize("from_clients", [False, True], ids=["we-still-reach-it", "we-do-not"])
@pytest.mark.parametrize("durability", DURABILITIES)
def test_the_primary_is_parted_from_its_peers(
    group: Replicated, runs: Runs, durability: str, from_clients: bool
) -> None:
    only_for(group, Flavour.VALKEY, *([Flavour.REDIS] if not from_clients else []))
    guarded = Guarded(group, runs, durability)
    old, _ = group.fail_over_by_isolating(from_clients=from_clients)
    if from_clients and durability == "reply":
        guarded.run.goes_on()  # on the other side
    elif durability == "reply":
        guarded.run.goes_on(200)  # on the side whose writes will be undone
    else:
        guarded.run.fails("not_durable", "timeout", "no_primary", "connection")
    guarded.healed(old)
    guarded.run.check(loses=False)


@pytest.mark.parametrize("durability", DURABILITIES)
def test_what_the_parting_undoes_is_more_than_memory_holds(
    group: Replicated, runs: Runs, durability: str
) -> None:
    only_for(group, Flavour.VALKEY)
    guarded = Guarded(group, runs, durability, recent=40)
    old, _ = group.fail_over_by_isolating()
    if durability == "reply":
        guarded.run.goes_on(300)
    else:
        guarded.run.fails("not_durable", "timeout", "no_primary", "connection")
    guarded.healed(old)
    guarded.run.check(loses=durability == "reply")


def test_the_replica_dies_and_nothing_is_confirmed_until_it_is_back(group: Replicated, runs: Runs) -> None:
    only_for(group, Flavour.VALKEY, Flavour.REDIS)
    guarded = Guarded(group, runs, "wait")
    replica = group.replica
    replica.server.kill()
    guarded.run.fails("not_durable", times=2)
    guarded.healed(replica)
    guarded.run.check(loses=False)


def test_all_sentinels_are_away_for_a_while(group: Replicated, runs: Runs) -> None:
    only_for(group, Flavour.VALKEY)
    guarded = Guarded(group, runs, "reply")
    primary = group.primary
    for sentinel in group.sentinels:
        sentinel.pause()
    front = primary.front
    front.refuse()
    front.cut()
    guarded.run.fails("connection", "no_primary")  # the second if the cut came between two appends
    front.heal()  # nobody says where it is
    guarded.run.fails("no_primary", times=2)
    for sentinel in group.sentinels:
        sentinel.resume()
    group.wait_until_whole()
    guarded.run.goes_on()
    guarded.run.check(loses=False)
