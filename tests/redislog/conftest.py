"""Fixtures of the Redis log's tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from redis_servers.server import Server
from redislog.workshop import Workshop, workshop


@pytest.fixture
def shop(redis_server: Server) -> Iterator[Workshop]:
    """A log of the system ``shop`` on an empty server, to be damaged."""
    yield from workshop(redis_server)
