"""The pytest fixtures: shared plain servers, and a lab that builds servers for one test and clears them away."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest

from conftest import missing
from redis_servers.flavours import FLAVOURS, Flavour
from redis_servers.lab import Lab
from redis_servers.server import Server


def require(flavour: Flavour) -> Flavour:
    """Return *flavour*; skip, or fail in CI, where its program is missing."""
    if flavour.program() is None:
        missing(flavour.remedy)
    return flavour


@pytest.fixture(params=FLAVOURS)
def flavour(request: pytest.FixtureRequest) -> Flavour:
    """Every kind of server in turn: Valkey always, the others with ``-m redis``."""
    return require(request.param)


@pytest.fixture(scope="session")
def shared_servers() -> Iterator[dict[Flavour, Server]]:
    """The plain servers that run for the whole session, started by the first test that wants one."""
    servers: dict[Flavour, Server] = {}
    yield servers
    for server in servers.values():
        server.close()


@pytest.fixture
def redis_server(flavour: Flavour, shared_servers: dict[Flavour, Server]) -> Server:
    """A plain server of each flavour, shared by all tests but empty; not to be stopped or reconfigured."""
    if flavour not in shared_servers:
        shared_servers[flavour] = Server(flavour)
    server = shared_servers[flavour]
    with server.new_client() as client:
        client.flushall()
        client.script_flush()
    return server


@pytest.fixture
def lab() -> Iterator[Lab]:
    """A builder of servers of one's own, which all end with the test."""
    with closing(Lab(require)) as made:
        yield made
