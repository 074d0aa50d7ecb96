"""The tests' own servers: they start, answer, fail as asked, and leave nothing running."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import redis

from redis_servers import processes
from redis_servers.flavours import FLAVOURS, Flavour
from redis_servers.lab import Lab
from redis_servers.server import Server, ServerFailed
from redis_servers.waiting import until

pytestmark = pytest.mark.redis

DURABLE = {"appendonly": True, "appendfsync": "always"}


@pytest.fixture(autouse=True)
def nothing_is_left(shared_servers: dict[Flavour, Server]):
    yield
    assert set(processes.running()) <= {server.pid for server in shared_servers.values()}


def test_the_shared_server_answers_and_is_empty(redis_server: Server):
    with redis_server.new_client() as client:
        assert client.dbsize() == 0
        assert client.set("left", "over")


def test_the_shared_server_is_empty_again(redis_server: Server):
    with redis_server.new_client() as client:
        assert client.dbsize() == 0


def test_each_flavour_is_the_server_it_says(redis_server: Server):
    with redis_server.new_client() as client:
        info = client.info("server")
    known = info.get("valkey_version", info["redis_version"])
    wanted = {Flavour.VALKEY: "9.", Flavour.REDIS: "7.", Flavour.OLDEST: "6.2."}
    assert known.startswith(wanted[redis_server.flavour])


def test_a_durable_server_keeps_everything_over_a_kill(lab: Lab, flavour: Flavour):
    server = lab.server(flavour, DURABLE)
    server.client().set("kept", "yes")
    server.kill()
    assert not server.is_running
    with pytest.raises(redis.ConnectionError):
        server.client().ping()
    server.start()
    assert server.client().get("kept") == b"yes"


def test_a_paused_server_answers_when_it_is_resumed(lab: Lab, flavour: Flavour):
    server = lab.server(flavour)
    client = server.client(socket_timeout=0.1)
    client.ping()
    server.pause()
    with pytest.raises(redis.TimeoutError):
        client.ping()
    server.resume()
    server.wait_until_it_answers()
    server.pause()
    server.stop()
    assert not server.is_running


def test_a_server_may_want_a_user_and_listen_on_a_unix_socket(lab: Lab, flavour: Flavour):
    users = ["default off", "app on >se:cr/et ~* &* +@all"]
    server = lab.server(flavour, {"user": users}, username="app", password="se:cr/et", unix=True)
    with redis.Redis.from_url(server.url) as client:
        assert client.acl_whoami() in {"app", b"app"}
        client.connection_pool.disconnect()
    with pytest.raises(redis.AuthenticationError):
        server.client(password="wrong").ping()


def test_a_password_is_wanted_by_the_default_user(lab: Lab, flavour: Flavour):
    server = lab.server(flavour, password="p@ss")
    with redis.Redis.from_url(server.url) as client:
        assert client.ping()
    with pytest.raises(redis.AuthenticationError):
        server.client(password=None).ping()


def test_a_torn_aof_is_cut_or_refused_as_configured(lab: Lab, flavour: Flavour):
    server = lab.server(flavour, DURABLE)
    for number in range(3):
        server.client().set(f"key{number}", "value")
    server.kill()
    assert server.aof.truncate(cut_bytes=3) == b"e\r\n"
    with pytest.raises(ServerFailed, match="aof-load-truncated"):
        server.start({"aof-load-truncated": False})
    server.start({"aof-load-truncated": True})
    assert server.client().dbsize() == 2


def test_a_damaged_aof_is_refused_or_believed(lab: Lab, flavour: Flavour):
    server = lab.server(flavour, DURABLE)
    server.client().set("key", "value")
    server.kill()
    assert server.aof.replace(b"value", b"VALUE") == 1
    server.start()
    assert server.client().get("key") == b"VALUE"
    server.kill()
    server.aof.flip(0)
    with pytest.raises(ServerFailed, match="Bad file format"):
        server.start()


@pytest.mark.parametrize("mutual_tls", [False, True])
def test_a_tls_server_is_reached_only_by_who_trusts_it(lab: Lab, mutual_tls: bool):
    server = lab.tls_server(mutual_tls=mutual_tls)
    assert server.client().ping()
    for wrong in (
        {"ssl_ca_certs": str(server.tls.wrong_authority)},
        {"ssl": False, "ssl_ca_certs": None, "ssl_certfile": None, "ssl_keyfile": None},
    ):
        with pytest.raises(redis.ConnectionError):
            server.client(**wrong).ping()


def test_a_mutual_tls_server_refuses_strangers(lab: Lab):
    server = lab.tls_server(mutual_tls=True)
    stranger = {"ssl_certfile": str(server.tls.wrong_client), "ssl_keyfile": str(server.tls.wrong_client_key)}
    for wrong in (stranger, {"ssl_certfile": None, "ssl_keyfile": None}):
        with pytest.raises(redis.ConnectionError):
            server.client(**wrong).ping()


def test_a_certificate_for_another_name_is_refused(lab: Lab):
    server = lab.tls_server(certificates=lab.certificates("elsewhere.invalid"))
    assert server.client(ssl_check_hostname=False).ping()
    with pytest.raises(redis.ConnectionError, match="certificate"):
        server.client().ping()


def test_a_server_that_cannot_start_says_why(lab: Lab):
    with pytest.raises(ServerFailed, match="no-such-setting"):
        lab.server(options={"no-such-setting": "1"})


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="there is no setpriv to tie the server to us")
def test_a_server_ends_with_a_test_run_that_is_killed(tmp_path: Path):
    program = (
        "import os; from redis_servers.server import Server; print(Server().url, flush=True); os.abort()"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1]), "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-c", program]
    ended = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    assert ended.returncode == -signal.SIGABRT
    with redis.Redis.from_url(ended.stdout.strip()) as client:
        until(lambda: _is_unreachable(client), "the server's end")


def _is_unreachable(client: redis.Redis) -> bool:
    try:
        return not client.ping()
    except redis.ConnectionError:
        return True


@pytest.mark.parametrize("chosen", FLAVOURS)
def test_the_programs_are_found_without_importing_their_packages(chosen: Flavour):
    program = chosen.program()
    assert program is None or program.is_file()
