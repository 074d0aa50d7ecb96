"""What a test asks for servers; whatever is made here ends with the test."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from typing import Any

import pytest

from redis_servers.certificates import Certificates
from redis_servers.cluster import Cluster
from redis_servers.flavours import Flavour
from redis_servers.proxy import Proxy
from redis_servers.replicated import Replicated
from redis_servers.server import Option, Server


class Lab:
    """Makes servers, and ends them all, last made first, in ``close``.

    *require* is asked before a flavour is used, and skips the test where it is missing.
    """

    def __init__(self, require: Callable[[Flavour], Flavour]) -> None:
        self._require = require
        self._stack = ExitStack()

    def close(self) -> None:
        """End everything that was made."""
        self._stack.close()

    def server(
        self, flavour: Flavour = Flavour.VALKEY, options: Mapping[str, Option] | None = None, **more: Any
    ) -> Server:
        """Start a fresh server; see ``Server`` for the arguments."""
        return self._stack.enter_context(closing(Server(self._require(flavour), options, **more)))

    def certificates(self, *names: str) -> Certificates:
        """Make certificates, for the server *names* or for localhost."""
        return self._stack.enter_context(closing(Certificates(*names)))

    def tls_server(
        self,
        options: Mapping[str, Option] | None = None,
        *,
        mutual_tls: bool = False,
        certificates: Certificates | None = None,
        **more: Any,
    ) -> Server:
        """Start a Debian Redis that speaks only TLS, and with *mutual_tls* asks for the client's certificate."""
        tls = certificates or self.certificates()
        return self.server(Flavour.REDIS, options, tls=tls, mutual_tls=mutual_tls, **more)

    def proxy(self, server: Server) -> Proxy:
        """Put a network in front of *server*, faultless at first."""
        return self._stack.enter_context(closing(Proxy(server.port)))

    def replicated(
        self, flavour: Flavour = Flavour.VALKEY, options: Mapping[str, Option] | None = None, **more: Any
    ) -> Replicated:
        """Start a primary, a replica and three sentinels; see ``Replicated`` for the arguments."""
        if sys.platform != "linux":
            pytest.skip("only Linux answers on all of 127.0.0.0/8")
        return self._stack.enter_context(closing(Replicated(self._require(flavour), options, **more)))

    def cluster(
        self, flavour: Flavour = Flavour.VALKEY, options: Mapping[str, Option] | None = None, **more: Any
    ) -> Cluster:
        """Form a cluster; see ``Cluster`` for the arguments."""
        return self._stack.enter_context(closing(Cluster(self._require(flavour), options, **more)))
