"""The promises of every log, for Redis and Valkey: single servers, shards, Sentinel, Cluster, TLS and a Unix socket."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from urllib.parse import urlencode

import pytest

from papyra_otel.log import FactLog, open_log
from papyra_otel.testing import LogContract, MakeLog
from redis_servers.certificates import Certificates
from redis_servers.cluster import Cluster
from redis_servers.fixtures import require
from redis_servers.flavours import FLAVOURS, Flavour
from redis_servers.replicated import NAME, Replicated
from redis_servers.server import Server


def maker(url: str) -> MakeLog:
    """Return what opens the log at *url*."""

    def make(system: str | None = None, retention: str | None = None) -> FactLog:
        return open_log(url, system, retention)

    return make


@pytest.fixture(scope="module", params=FLAVOURS)
def replicated(request: pytest.FixtureRequest) -> Iterator[Replicated]:
    with closing(Replicated(require(request.param))) as made:
        yield made


@pytest.fixture(scope="module", params=FLAVOURS)
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    with closing(Cluster(require(request.param))) as made:
        yield made


@pytest.fixture(scope="module")
def tls_server() -> Iterator[Server]:
    require(Flavour.REDIS)
    with (
        closing(Certificates()) as certificates,
        closing(Server(Flavour.REDIS, tls=certificates, mutual_tls=True, password="p@ss/w:rd?#%")) as made,
    ):
        yield made


@pytest.fixture(scope="module")
def unix_server() -> Iterator[Server]:
    with closing(Server(require(Flavour.VALKEY), unix=True)) as made:
        yield made


class TestRedisLog(LogContract):
    @pytest.fixture
    def make_log(self, redis_server: Server) -> MakeLog:
        return maker(redis_server.url)


class TestShardedRedisLog(LogContract):
    @pytest.fixture
    def make_log(self, redis_server: Server) -> MakeLog:
        return maker(f"{redis_server.url}?shards=3")


@pytest.mark.redis
class TestLogBehindSentinel(LogContract):
    @pytest.fixture
    def make_log(self, replicated: Replicated) -> MakeLog:
        with replicated.primary.server.new_client() as client:
            client.flushall()
        sentinels = ",".join(f"{host}:{port}" for host, port in replicated.sentinel_addresses)
        return maker(f"redis+sentinel://{sentinels}/{NAME}?durability=wait")


@pytest.mark.redis
class TestLogInCluster(LogContract):
    @pytest.fixture
    def make_log(self, cluster: Cluster) -> MakeLog:
        for node in cluster.nodes:
            with node.new_client() as client:
                client.flushall()
        nodes = ",".join(f"{node.host}:{node.port}" for node in cluster.nodes[:2])
        return maker(f"redis+cluster://{nodes}?shards=4")


@pytest.mark.redis
class TestLogOverTls(LogContract):
    @pytest.fixture
    def make_log(self, tls_server: Server) -> MakeLog:
        with tls_server.new_client(ssl_check_hostname=False) as client:
            client.flushall()
        tls = tls_server.tls
        assert tls is not None
        files = {"tls_ca": tls.authority, "tls_cert": tls.client, "tls_key": tls.client_key}
        return maker(f"{tls_server.url.replace('127.0.0.1', 'localhost')}?{urlencode(files)}")


@pytest.mark.redis
class TestLogThroughUnixSocket(LogContract):
    @pytest.fixture
    def make_log(self, unix_server: Server) -> MakeLog:
        with unix_server.new_client() as client:
            client.flushall()
        return maker(unix_server.url)
