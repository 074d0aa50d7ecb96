"""The promises of every log, for Redis and Valkey."""

from __future__ import annotations

import pytest

from papyra_otel.log import FactLog, open_log
from papyra_otel.testing import LogContract, MakeLog
from redis_servers.server import Server


class TestRedisLog(LogContract):
    @pytest.fixture
    def make_log(self, redis_server: Server) -> MakeLog:
        def make(system: str | None = None, retention: str | None = None) -> FactLog:
            return open_log(redis_server.url, system, retention)

        return make


class TestShardedRedisLog(LogContract):
    @pytest.fixture
    def make_log(self, redis_server: Server) -> MakeLog:
        def make(system: str | None = None, retention: str | None = None) -> FactLog:
            return open_log(f"{redis_server.url}?shards=3", system, retention)

        return make
