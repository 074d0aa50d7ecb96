"""What is wrong with a server is seen before facts depend on it, and said with what to do."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any

import pytest

from papyra_otel.cli import main
from papyra_otel.errors import LogUnavailable
from papyra_otel.facts import FactKind
from papyra_otel.log.redis.address import parse_address
from papyra_otel.log.redis.redislog import RedisLog
from papyra_otel.reports import Check
from papyra_otel.testing import make_fact
from redis_servers.fixtures import require
from redis_servers.flavours import FLAVOURS, Flavour
from redis_servers.lab import Lab
from redis_servers.server import Server

GOOD = {"appendonly": True, "maxmemory-policy": "noeviction"}


def wrong_in(checks: tuple[Check, ...]) -> dict[str, Check]:
    return {check.name: check for check in checks if not check.ok}


def looked_at(url: str, clock: Any = time.time_ns) -> tuple[Check, ...]:
    with RedisLog(parse_address(url), clock=clock) as log:
        return log.preflight()


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_a_server_that_is_set_up_well_has_nothing_wrong(lab: Lab, flavour: Flavour) -> None:
    server = lab.server(require(flavour), GOOD)
    checks = looked_at(server.url)
    assert wrong_in(checks) == {}
    assert {"server", "role", "eviction", "memory", "persistence", "clock", "rights"} == {
        c.name for c in checks
    }
    with RedisLog(parse_address(server.url)) as log:
        assert wrong_in(log.risks()) == {}
        assert log.scan().risks == ()


@pytest.mark.parametrize(
    ("settings", "options", "name", "severity", "told"),
    [
        ({"maxmemory-policy": "allkeys-lru", "maxmemory": "100mb"}, "", "eviction", "ERROR", "noeviction"),
        ({"maxmemory-policy": "allkeys-random"}, "", "eviction", "WARN", "once maxmemory is set"),
        ({"appendonly": False}, "", "persistence", "WARN", "forgets every fact"),
        ({"appendonly": False, "save": "3600 1"}, "", "persistence", "WARN", "snapshots only"),
        ({"appendonly": False}, "?durability=aof", "persistence", "ERROR", "forgets every fact"),
        ({"appendfsync": "no"}, "", "persistence", "WARN", "appendfsync is no"),
        ({}, "?durability=wait&replicas=2", "durability", "ERROR", "0 of 2 replicas"),
    ],
)
def test_a_setting_that_loses_facts_is_told_with_the_remedy(
    lab: Lab, settings: Mapping[str, Any], options: str, name: str, severity: str, told: str
) -> None:
    server = lab.server(Flavour.VALKEY, {**GOOD, **settings})
    with RedisLog(parse_address(server.url + options)) as log:
        wrong = wrong_in(log.risks())
        assert list(wrong) == [name]
        assert wrong[name].severity == severity
        assert told in wrong[name].detail + (wrong[name].remedy or "")
        assert [risk.name for risk in log.scan().risks] == [name]
        assert log.scan().healthy


def test_memory_that_is_nearly_full_is_told(lab: Lab) -> None:
    server = lab.server(options=GOOD)
    server.client().config_set("maxmemory", int(server.client().info("memory")["used_memory"] * 1.05))
    assert "of maxmemory is in use" in wrong_in(looked_at(server.url))["memory"].detail


def test_a_replica_is_no_place_for_facts(lab: Lab) -> None:
    primary, replica = lab.server(options=GOOD), lab.server(options=GOOD)
    replica.client().replicaof(primary.host, primary.port)
    wrong = wrong_in(looked_at(replica.url))
    assert "replica" in wrong["role"].detail
    assert wrong["role"].severity == "ERROR"


@pytest.mark.redis
@pytest.mark.parametrize("flavour", [Flavour.REDIS, Flavour.OLDEST])
def test_a_server_without_waitaof_cannot_give_that_durability(lab: Lab, flavour: Flavour) -> None:
    server = lab.server(require(flavour), GOOD)
    assert "WAITAOF" in wrong_in(looked_at(f"{server.url}?durability=aof"))["durability"].detail


def test_what_may_not_be_asked_is_named_and_nothing_fails(lab: Lab) -> None:
    users = ["app on >pw ~papyra:* +@all -config -acl -command"]
    server = lab.server(options={**GOOD, "user": users}, username="app", password="pw")
    checks = {check.name: check for check in looked_at(server.url)}
    assert wrong_in(tuple(checks.values())) == {}
    assert "cannot be seen" in checks["persistence"].detail
    assert "not looked at" in checks["rights"].detail


def test_rights_that_are_missing_are_listed(lab: Lab) -> None:
    users = ["app on >pw ~papyra:* +@all -xtrim -hset"]
    server = lab.server(options={**GOOD, "user": users}, username="app", password="pw")
    assert "may not HSET, XTRIM" in wrong_in(looked_at(server.url))["rights"].detail


def test_the_documented_rights_suffice(lab: Lab) -> None:
    rights = (
        "~papyra:* resetchannels -@all +@connection +@read +@write +@stream +@scripting +@transaction "
        "+info +time +role +wait +waitaof +cluster|slots +cluster|info +scan"
    )
    server = lab.server(options={**GOOD, "user": [f"app on >pw {rights}"]}, username="app", password="pw")
    with RedisLog(parse_address(server.url)) as log:
        assert {check.name for check in wrong_in(log.preflight()).values()} == set()
        log.append([make_fact(n) for n in range(30)])
        assert sum(1 for _ in log.read()) == 30
        assert log.scan().healthy
        log.recover()
        assert log.compact("3").records_removed
        assert log.consume("group", "me")
        assert list(log.follow(wait=lambda _: False))


def test_clocks_that_are_apart_are_told(redis_server: Server) -> None:
    checks = looked_at(redis_server.url, clock=lambda: time.time_ns() + 60_000_000_000)
    assert "60.0 s apart" in wrong_in(checks)["clock"].detail


def test_a_server_that_cannot_be_reached_is_one_failed_check(lab: Lab) -> None:
    server = lab.server()
    server.kill()
    (check,) = looked_at(server.url)
    assert (check.name, check.ok, check.severity) == ("server", False, "ERROR")
    with RedisLog(parse_address(server.url)) as log, pytest.raises(LogUnavailable):
        log.risks()


def test_the_commands_show_what_may_lose_facts(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    server = lab.server(options={"maxmemory-policy": "allkeys-lru", "maxmemory": "100mb"})
    with RedisLog(parse_address(server.url)) as log:
        log.append([make_fact(0, kind=FactKind.EVENT)])
    assert main(["scan", "--log", server.url]) == 0
    assert "CONFIG SET maxmemory-policy noeviction" in capsys.readouterr().out
    assert main(["scan", "--log", server.url, "--json"]) == 0
    told = {risk["name"]: risk["status"] for risk in json.loads(capsys.readouterr().out)["risks"]}
    assert told == {"eviction": "FAIL", "persistence": "warn"}
    assert main(["doctor", "--log", server.url]) == 1
    assert "eviction" in capsys.readouterr().out
