"""The bad network of the tests: each fault does what it says and ends when it is healed."""

from __future__ import annotations

import threading
import time

import pytest
import redis

from redis_servers.flavours import Flavour
from redis_servers.lab import Lab
from redis_servers.proxy import Proxy
from redis_servers.server import Server
from redis_servers.waiting import until

pytestmark = pytest.mark.redis


@pytest.fixture
def server(lab: Lab) -> Server:
    return lab.server(Flavour.VALKEY)


@pytest.fixture
def proxy(lab: Lab, server: Server) -> Proxy:
    return lab.proxy(server)


@pytest.fixture
def client(server: Server, proxy: Proxy) -> redis.Redis:
    made = server.client(port=proxy.port, socket_timeout=0.2)
    made.ping()
    return made


def test_a_faultless_proxy_forwards_everything(server: Server, client: redis.Redis, proxy: Proxy):
    blob = bytes(range(256)) * 4096
    client.set("blob", blob)
    assert client.get("blob") == blob == server.client().get("blob")
    assert (proxy.accepted, proxy.connections) == (1, 1)
    client.connection_pool.disconnect()
    until(lambda: proxy.connections == 0)


def test_latency_is_added_to_each_direction(client: redis.Redis, proxy: Proxy):
    proxy.delay(requests_seconds=0.05, replies_seconds=0.05)
    begun = time.monotonic()
    client.ping()
    assert time.monotonic() - begun >= 0.1
    proxy.delay(replies_seconds=0.5)
    with pytest.raises(redis.TimeoutError):
        client.ping()


def test_bandwidth_is_limited(server: Server, proxy: Proxy):
    client = server.client(port=proxy.port)
    proxy.limit(requests=1_000_000)
    begun = time.monotonic()
    client.set("blob", bytes(200_000))
    assert time.monotonic() - begun >= 0.2


def test_what_is_held_is_delivered_after_healing(server: Server, client: redis.Redis, proxy: Proxy):
    proxy.hold()
    with pytest.raises(redis.TimeoutError):
        client.set("late", "yes")
    assert server.client().get("late") is None
    proxy.heal()
    until(lambda: server.client().get("late") == b"yes")
    assert client.ping()


def test_a_swallowed_reply_leaves_the_command_done(server: Server, client: redis.Redis, proxy: Proxy):
    proxy.swallow(requests=False)
    with pytest.raises(redis.TimeoutError):
        client.set("done", "yes")
    assert server.client().get("done") == b"yes"
    proxy.heal()
    assert client.ping()
    assert proxy.connections == 1


def test_one_reply_can_be_lost(server: Server, client: redis.Redis, proxy: Proxy):
    proxy.lose_reply_to(b"INCR")
    assert client.ping()
    with pytest.raises(redis.ConnectionError):
        client.incr("counter")
    assert proxy.fired.is_set()
    assert server.client().get("counter") == b"1"
    assert client.incr("counter") == 2


def test_the_reply_stream_can_end_within_a_reply(server: Server, proxy: Proxy):
    server.client().set("blob", bytes(1000))
    client = server.client(port=proxy.port)
    client.ping()
    proxy.cut_after(replies=500)
    with pytest.raises(redis.ConnectionError):
        client.get("blob")
    assert proxy.fired.is_set()
    assert client.get("blob") == bytes(1000)


def test_the_request_stream_can_end_within_a_request(server: Server, client: redis.Redis, proxy: Proxy):
    proxy.cut_after(requests=20)
    with pytest.raises(redis.ConnectionError):
        client.set("never", bytes(1000))
    assert server.client().get("never") is None


def test_connections_can_be_cut_and_refused(client: redis.Redis, proxy: Proxy):
    proxy.refuse()
    assert client.ping()
    proxy.cut()
    with pytest.raises(redis.ConnectionError):
        client.ping()
    with pytest.raises(redis.ConnectionError, match="refused"):
        client.ping()
    proxy.heal()
    assert client.ping()


def test_one_source_address_can_be_isolated(client: redis.Redis, proxy: Proxy):
    proxy.isolate("127.0.0.77")
    assert client.ping()
    proxy.isolate("127.0.0.1")
    with pytest.raises(redis.TimeoutError):
        client.ping()
    proxy.heal()
    assert client.ping()


def test_a_proxy_before_a_dead_server_cuts(server: Server, client: redis.Redis, proxy: Proxy):
    server.kill()
    with pytest.raises(redis.ConnectionError):
        client.ping()
    server.start()
    assert client.ping()


def test_a_proxy_ends_with_open_connections_and_its_thread(server: Server):
    proxy = Proxy(server.port)
    client = server.client(port=proxy.port)
    client.ping()
    proxy.hold()
    name = f"proxy-{proxy.port}"
    assert name in [thread.name for thread in threading.enumerate()]
    proxy.close()
    proxy.close()
    assert name not in [thread.name for thread in threading.enumerate()]
    with pytest.raises(redis.ConnectionError):
        client.ping()
