"""One server that dies, hangs, refuses, forgets: whatever happens to it, and to our keys behind our back."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from contextlib import suppress

import pytest
import redis

from redis_servers.flavours import Flavour
from redis_servers.lab import Lab
from redis_servers.server import Server, ServerFailed
from redis_servers.waiting import until
from redislog.outages.harness import Run, Runs

pytestmark = pytest.mark.redis

EVENTS, AUDITS, DEAD_LETTERS = (f"papyra:{{shop}}:{kind}" for kind in ("events", "audits", "dead_letters"))
FENCE, META, QUARANTINE = (f"papyra:{{shop}}:{what}" for what in ("fence", "meta", "quarantine"))
INDEX = "papyra:systems"

Fault = Callable[[Run, Server], None]

# --- the process -------------------------------------------------------------------------------------------

AOF = {
    "always": {"appendonly": True, "appendfsync": "always"},
    "everysec": {"appendonly": True, "appendfsync": "everysec"},
    "no-aof": {},
}


@pytest.mark.parametrize("failures", [1, 3], ids=["brief", "longer"])
@pytest.mark.parametrize("aof", AOF)
def test_killed_and_restarted(lab: Lab, flavour: Flavour, runs: Runs, aof: str, failures: int) -> None:
    server = lab.server(flavour, AOF[aof])
    run = runs(server.url)
    run.goes_on()
    server.kill()
    run.fails("connection", times=failures)
    server.start()
    run.goes_on()
    run.check(loses=False)


@pytest.mark.parametrize("fsync", ["always", "everysec"])
def test_killed_after_the_disk_had_confirmed(lab: Lab, runs: Runs, fsync: str) -> None:
    server = lab.server(Flavour.VALKEY, AOF[fsync])
    run = runs(f"{server.url}?durability=aof", timeouts="timeout=3s&connect_timeout=1s&wait_timeout=2s")
    run.goes_on()
    server.kill()
    run.fails("connection")
    server.start()
    run.goes_on()
    run.check(loses=False)


def test_started_again_with_nothing_and_too_much_to_send_again(
    lab: Lab, flavour: Flavour, runs: Runs
) -> None:
    server = lab.server(flavour)
    run = runs(server.url, recent_facts_max=50)
    run.goes_on(300)
    server.kill()
    run.fails("connection")
    server.start()
    run.goes_on()
    lost = run.check(loses=True)
    assert len(lost) >= 200


@pytest.mark.parametrize("failures", [0, 1, 3], ids=["shorter-than-timeouts", "longer", "much-longer"])
def test_frozen_and_thawed(lab: Lab, flavour: Flavour, runs: Runs, failures: int) -> None:
    server = lab.server(flavour)
    run = runs(server.url)
    run.goes_on()
    server.pause()
    if failures:
        run.fails("timeout", times=failures)
    else:
        run.records(30)
    server.resume()
    run.goes_on()
    run.check(loses=False)


@pytest.mark.parametrize("of", ["once", "often"])
def test_its_clients_are_killed(lab: Lab, flavour: Flavour, runs: Runs, of: str) -> None:
    server = lab.server(flavour)
    run = runs(server.url)
    client = server.client()
    for _ in range(1 if of == "once" else 25):
        run.goes_on(12)
        client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    run.goes_on()
    run.check(loses=False)


@pytest.mark.parametrize("failures", [0, 2], ids=["shorter-than-timeouts", "longer"])
@pytest.mark.parametrize("mode", ["ALL", "WRITE"])
def test_its_clients_are_paused(lab: Lab, flavour: Flavour, runs: Runs, mode: str, failures: int) -> None:
    server = lab.server(flavour)
    run = runs(server.url)
    run.goes_on()
    server.client().execute_command(
        "CLIENT", "PAUSE", 1500 if failures else 100, mode
    )  # for ALL nobody ends it
    if failures:
        run.fails("timeout", times=failures)
    run.goes_on()
    run.check(loses=False)


@pytest.mark.parametrize("damage", ["torn", "flipped", "flipped-within-a-fact"])
def test_its_append_only_file_is_damaged(lab: Lab, flavour: Flavour, runs: Runs, damage: str) -> None:
    server = lab.server(flavour, {**AOF["always"], "aof-load-truncated": True})
    run = runs(server.url)
    run.goes_on()
    server.kill()
    run.fails("connection")
    if damage == "torn":
        server.aof.truncate(cut_bytes=700)
    elif damage == "flipped":
        size = server.aof.tail.stat().st_size
        data = server.aof.tail.read_bytes()
        server.aof.flip(data.rindex(b"\r\n$", 0, size - 500) + 2)
        with pytest.raises(ServerFailed):
            server.start()
        run.fails("connection")
        server.aof.truncate(cut_bytes=size - data.rindex(b"*1\r\n$5\r\nMULTI", 0, size - 500))
    else:
        data = server.aof.tail.read_bytes()
        server.aof.flip(data.rindex(b'"filling":"xxx') + 12, mask=0x01)
    server.start()
    run.goes_on()
    within = damage == "flipped-within-a-fact"  # the server believes its file: only a scan can tell
    run.check(scan_tells=within, loses=False)


# --- what it refuses -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("failures", [1, 3], ids=["brief", "longer"])
def test_out_of_memory_without_eviction(lab: Lab, flavour: Flavour, runs: Runs, failures: int) -> None:
    server = lab.server(flavour, {"maxmemory-policy": "noeviction"})
    run = runs(server.url)
    run.goes_on()
    server.client().config_set("maxmemory", 1)
    run.fails("oom", times=failures)
    server.client().config_set("maxmemory", 0)
    run.goes_on()
    run.check(loses=False)


@pytest.mark.parametrize("policy", ["allkeys-lru", "allkeys-random", "allkeys-lfu"])
@pytest.mark.parametrize("what", ["all", "some"])
def test_out_of_memory_and_our_keys_are_evicted(
    lab: Lab, flavour: Flavour, runs: Runs, policy: str, what: str
) -> None:
    server = lab.server(flavour, {"maxmemory-policy": policy})
    client = server.client()
    run = runs(server.url)
    run.goes_on(200)
    if what == "all":
        client.config_set("maxmemory", 1)
        run.fails("oom")
    else:
        client.config_set("maxmemory", int(client.info("memory")["used_memory"]) + 200_000)
        for n in range(400):
            with suppress(redis.ResponseError):
                client.set(f"ballast:{n}", bytes(20_000))
    client.config_set("maxmemory", 0)
    run.goes_on()
    run.check(loses=False, twice_in_streams=True)


def test_evicted_and_too_much_to_send_again(lab: Lab, flavour: Flavour, runs: Runs) -> None:
    server = lab.server(flavour, {"maxmemory-policy": "allkeys-random"})
    run = runs(server.url, recent_facts_max=50)
    run.goes_on(200)
    server.client().config_set("maxmemory", 1)
    run.fails("oom")
    server.client().config_set("maxmemory", 0)
    run.goes_on()
    run.check(loses=True)


@pytest.mark.parametrize("failures", [1, 3], ids=["brief", "longer"])
def test_made_a_replica_and_promoted_again(lab: Lab, flavour: Flavour, runs: Runs, failures: int) -> None:
    server = lab.server(flavour)
    run = runs(server.url)
    run.goes_on()
    server.client().replicaof("127.0.0.1", 1)
    run.fails("read_only", "no_primary", times=failures)
    server.client().execute_command("REPLICAOF", "NO", "ONE")
    run.goes_on()
    run.check(loses=False)


def test_made_the_replica_of_a_stranger_and_emptied(lab: Lab, flavour: Flavour, runs: Runs) -> None:
    server, stranger = lab.server(flavour), lab.server(flavour)
    run = runs(server.url)
    run.goes_on()
    server.client().replicaof(stranger.host, stranger.port)
    until(lambda: server.client().info("replication").get("master_link_status") == "up")
    run.fails("read_only")
    server.client().execute_command("REPLICAOF", "NO", "ONE")
    run.goes_on()
    run.check(loses=False)


def test_too_few_replicas(lab: Lab, flavour: Flavour, runs: Runs) -> None:
    server = lab.server(flavour)
    run = runs(server.url)
    run.goes_on()
    server.client().config_set("min-replicas-to-write", 1)
    run.fails("no_replicas", times=2)
    server.client().config_set("min-replicas-to-write", 0)
    run.goes_on()
    run.check(loses=False)


def test_it_cannot_save_and_takes_no_writes(lab: Lab, flavour: Flavour, runs: Runs) -> None:
    movable = {} if flavour is Flavour.OLDEST else {"enable-protected-configs": "local"}
    server = lab.server(flavour, {"stop-writes-on-bgsave-error": True, "save": "3600 1000000", **movable})
    client = server.client()
    folder = server.dir / "snapshots"
    folder.mkdir()
    run = runs(server.url)
    run.goes_on()
    client.config_set("dir", str(folder))
    shutil.rmtree(folder)
    client.bgsave()
    run.fails("misconf", times=2)
    client.config_set("stop-writes-on-bgsave-error", "no")
    run.goes_on()
    run.check(loses=False)


def test_it_takes_no_more_clients(lab: Lab, flavour: Flavour, runs: Runs) -> None:
    server = lab.server(flavour)
    client = server.client()
    client.ping()
    run = runs(server.url)
    run.goes_on()
    client.config_set("maxclients", 1)
    client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    run.fails("connection", times=2)
    assert "max number of clients" in run.log.last_failure
    client.config_set("maxclients", 1000)
    run.goes_on()
    run.check(loses=False)


@pytest.mark.parametrize(
    "denied", [("-@all", "+ping"), ("-@write",), ("-xadd",), ("-evalsha", "-eval"), ("resetkeys",)]
)
def test_a_permission_is_withdrawn_and_given_back(
    lab: Lab, flavour: Flavour, runs: Runs, denied: tuple[str, ...]
) -> None:
    server = lab.server(flavour, {"user": ["app on >pw ~papyra:* +@all"]})
    client = server.client()
    run = runs(f"redis://app:pw@{server.host}:{server.port}")
    run.goes_on()
    client.execute_command("ACL", "SETUSER", "app", *denied)
    run.fails("permission", times=2)
    client.execute_command("ACL", "SETUSER", "app", "+@all", "~papyra:*")
    run.goes_on()
    run.check(loses=False)


def test_the_password_is_changed_and_changed_back(lab: Lab, flavour: Flavour, runs: Runs) -> None:
    server = lab.server(flavour, {"user": ["app on >pw ~papyra:* +@all"]})
    client = server.client()
    run = runs(f"redis://app:pw@{server.host}:{server.port}")
    run.goes_on()
    client.execute_command("ACL", "SETUSER", "app", "resetpass", ">another")
    client.execute_command("CLIENT", "KILL", "USER", "app")
    run.fails("auth", times=2)
    client.execute_command("ACL", "SETUSER", "app", ">pw")
    run.goes_on()
    run.check(loses=False)


def test_the_password_is_wrong_from_the_beginning(lab: Lab, flavour: Flavour, runs: Runs) -> None:
    server = lab.server(flavour, password="right")
    run = runs(f"redis://:wrong@{server.host}:{server.port}")
    run.fails("auth", times=3)
    assert "wrong" not in run.log.last_failure.replace("wrong number", "")
    server.client().config_set("requirepass", "wrong")
    run.goes_on()
    run.check(loses=False)


# --- scripts ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("times", [1, 30], ids=["once", "often"])
def test_scripts_are_flushed(lab: Lab, flavour: Flavour, runs: Runs, times: int) -> None:
    server = lab.server(flavour)
    run = runs(server.url)
    for _ in range(times):
        run.goes_on(12)
        server.client().script_flush()
    run.goes_on()
    run.check(loses=False)
    assert run.log.failures.total() == 0


def test_somebodys_script_blocks_it_and_is_killed(lab: Lab, flavour: Flavour, runs: Runs) -> None:
    server = lab.server(flavour, {"lua-time-limit": 50})
    run = runs(server.url)
    run.goes_on()
    client, killer = server.client(socket_timeout=30), server.client()

    def block() -> None:
        with suppress(redis.ResponseError):
            client.eval("while true do end", 0)

    blocking = threading.Thread(target=block)
    blocking.start()
    run.fails("busy", times=2)
    killer.script_kill()
    blocking.join()
    run.goes_on()
    run.check(loses=False)


# --- behind our back -------------------------------------------------------------------------------------------


def _flush_all(client: redis.Redis) -> None:
    client.flushall()


def _flush_database(client: redis.Redis) -> None:
    client.flushdb()


def _delete_all(client: redis.Redis) -> None:
    client.delete(EVENTS, AUDITS, DEAD_LETTERS, FENCE, META, QUARANTINE, INDEX)


@pytest.mark.parametrize("times", [1, 8], ids=["once", "often"])
@pytest.mark.parametrize("forget", [_flush_all, _flush_database, _delete_all])
def test_everything_is_deleted(
    lab: Lab, flavour: Flavour, runs: Runs, forget: Callable[[redis.Redis], None], times: int
) -> None:
    server = lab.server(flavour)
    run = runs(server.url)
    for _ in range(times):
        run.goes_on(40)
        forget(server.client())
    run.goes_on()
    run.check(loses=False)


@pytest.mark.parametrize("key", [EVENTS, AUDITS, DEAD_LETTERS, FENCE, META, INDEX])
@pytest.mark.parametrize("how", ["delete", "rename", "replace"])
def test_one_key_is_taken_away(lab: Lab, flavour: Flavour, runs: Runs, key: str, how: str) -> None:
    server = lab.server(flavour)
    client = server.client()
    run = runs(server.url)
    run.goes_on(100)
    if how == "delete":
        client.delete(key)
    elif how == "rename":
        client.rename(key, "elsewhere")
    else:
        client.set(key, "mine")
        if key in {EVENTS, AUDITS, DEAD_LETTERS, FENCE}:
            run.fails("wrong_type", times=2)
        else:
            run.goes_on()
        client.delete(key)
    run.goes_on()
    run.check(loses=False)


@pytest.mark.parametrize("key", [EVENTS, FENCE])
def test_one_key_is_deleted_and_there_is_too_much_to_send_again(
    lab: Lab, flavour: Flavour, runs: Runs, key: str
) -> None:
    server = lab.server(flavour)
    run = runs(server.url, recent_facts_max=50)
    run.goes_on(200)
    server.client().delete(key)
    run.goes_on()
    run.check(loses=key == EVENTS)


def _delete_some_entries(client: redis.Redis) -> None:
    ids = [entry_id for entry_id, _ in client.xrange(EVENTS, count=40)]
    client.xdel(EVENTS, *ids[10:15], ids[30])


def _trim_half(client: redis.Redis) -> None:
    client.xtrim(AUDITS, maxlen=client.xlen(AUDITS) // 2, approximate=False)


@pytest.mark.parametrize("remove", [_delete_some_entries, _trim_half])
def test_entries_are_removed_by_hand_and_a_scan_tells(
    lab: Lab, flavour: Flavour, runs: Runs, remove: Callable[[redis.Redis], None]
) -> None:
    """The writer's last entry is there: no append can notice."""
    server = lab.server(flavour)
    run = runs(server.url)
    run.goes_on(200)
    remove(server.client())
    run.goes_on()
    run.check(scan_tells=True, loses=False)


@pytest.mark.parametrize("key", [EVENTS, AUDITS, DEAD_LETTERS])
def test_a_stream_is_deleted_after_the_last_append_and_a_scan_tells(
    lab: Lab, flavour: Flavour, runs: Runs, key: str
) -> None:
    server = lab.server(flavour)
    run = runs(server.url)
    run.goes_on(100)
    run.settle()
    server.client().delete(key)
    run.judge(scan_tells=True, loses=False)


# --- more than memory holds ---------------------------------------------------------------------------------------


def test_the_ring_overflows_and_dead_letters_go_last(lab: Lab, flavour: Flavour, runs: Runs) -> None:
    server = lab.server(flavour)
    run = runs(server.url, capacity=1000)
    run.goes_on()
    server.kill()
    run.fails("connection")
    run.records(1500)
    server.start()
    run.goes_on()
    lost = run.check(loses=True)
    assert {uid.kind.value for uid in lost} <= {"event", "audit"}
