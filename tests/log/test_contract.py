"""The promises of every log, for those that come with the library."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from papyra_otel.log import FactLog, open_log
from papyra_otel.log.memory import forget
from papyra_otel.testing import LogContract, MakeLog


class TestMemoryLog(LogContract):
    @pytest.fixture
    def make_log(self, request: pytest.FixtureRequest) -> Iterator[MakeLog]:
        name = request.node.name

        def make(system: str | None = None, retention: str | None = None) -> FactLog:
            return open_log(f"memory:{name}", system, retention)

        yield make
        forget(name)


class TestFileLog(LogContract):
    @pytest.fixture
    def make_log(self, tmp_path: Path) -> MakeLog:
        def make(system: str | None = None, retention: str | None = None) -> FactLog:
            return open_log(f"file:{tmp_path}/facts", system, retention)

        return make
