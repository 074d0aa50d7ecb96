"""A server that is well behind a network that is not, and one that speaks TLS where we do not, or the reverse."""

from __future__ import annotations

import shutil
from datetime import datetime, timedelta, timezone
from pathlib import Path
from urllib.parse import urlencode

import pytest

from redis_servers.certificates import Certificates
from redis_servers.fixtures import require
from redis_servers.flavours import Flavour
from redis_servers.lab import Lab
from redis_servers.proxy import Proxy
from redis_servers.server import Server
from redislog.outages.harness import Run, Runs

pytestmark = pytest.mark.redis

PATIENT = "timeout=2s&connect_timeout=2s"


@pytest.fixture(params=[Flavour.VALKEY, Flavour.OLDEST], ids=lambda flavour: flavour.value)
def flavour(request: pytest.FixtureRequest) -> Flavour:
    """The newest and the oldest: the network's faults are the same for all that is between."""
    return require(request.param)


class Route:
    """A server, the network in front of it, and an application that knows only that."""

    def __init__(self, lab: Lab, flavour: Flavour, runs: Runs, timeouts: str | None = None) -> None:
        self.server: Server = lab.server(flavour)
        self.network: Proxy = lab.proxy(self.server)
        more = {} if timeouts is None else {"timeouts": timeouts}
        self.run: Run = runs(f"redis://127.0.0.1:{self.network.port}", read_url=self.server.url, **more)
        self.run.goes_on()

    def healed(self) -> None:
        self.network.heal()
        self.run.goes_on()
        self.run.check(loses=False)


@pytest.mark.parametrize("ms", [50, 150, 300])
def test_latency_each_way_slows_only_the_writer_down(lab: Lab, flavour: Flavour, runs: Runs, ms: int) -> None:
    route = Route(lab, flavour, runs, PATIENT)
    route.network.delay(requests_seconds=ms / 1000, replies_seconds=ms / 1000)
    route.run.goes_on(60)
    route.healed()
    assert route.run.log.failures.total() == 0


@pytest.mark.parametrize("way", ["requests", "replies"])
def test_latency_above_the_timeout(lab: Lab, flavour: Flavour, runs: Runs, way: str) -> None:
    route = Route(lab, flavour, runs)
    route.network.delay(**{f"{way}_seconds": 0.6})
    route.run.fails("timeout", times=2)
    route.healed()


@pytest.mark.parametrize("bytes_per_second", [30_000, 200_000])
def test_little_bandwidth(lab: Lab, flavour: Flavour, runs: Runs, bytes_per_second: int) -> None:
    route = Route(lab, flavour, runs)
    route.network.limit(requests=bytes_per_second, replies=bytes_per_second)
    route.run.records(300)
    route.healed()


@pytest.mark.parametrize(
    "ways", [(True, True), (True, False), (False, True)], ids=["both", "requests", "replies"]
)
@pytest.mark.parametrize("how", ["hold", "swallow"])
def test_a_black_hole(lab: Lab, flavour: Flavour, runs: Runs, how: str, ways: tuple[bool, bool]) -> None:
    route = Route(lab, flavour, runs)
    getattr(route.network, how)(requests=ways[0], replies=ways[1])
    route.run.fails("timeout", times=2)
    route.healed()


@pytest.mark.parametrize("times", [1, 12], ids=["once", "often"])
def test_replies_are_lost(lab: Lab, flavour: Flavour, runs: Runs, times: int) -> None:
    route = Route(lab, flavour, runs)
    for _ in range(times):
        route.network.lose_reply_to(b"EVALSHA")
        assert route.network.fired.wait(20)
        route.run.goes_on(12)
    route.healed()


@pytest.mark.parametrize("way", ["requests", "replies"])
def test_the_line_breaks_in_the_midst(lab: Lab, flavour: Flavour, runs: Runs, way: str) -> None:
    route = Route(lab, flavour, runs)
    for nbytes in (1, 7, 60, 117, 400, 1_000, 3_333):
        route.network.cut_after(**{way: nbytes})
        assert route.network.fired.wait(20)
        route.run.goes_on(12)
    route.healed()


@pytest.mark.parametrize("times", [1, 20], ids=["once", "often"])
def test_connections_are_cut(lab: Lab, flavour: Flavour, runs: Runs, times: int) -> None:
    route = Route(lab, flavour, runs)
    for _ in range(times):
        route.network.cut()
        route.run.goes_on(12)
    route.healed()


@pytest.mark.parametrize("failures", [1, 4], ids=["brief", "longer"])
def test_connections_are_refused(lab: Lab, flavour: Flavour, runs: Runs, failures: int) -> None:
    route = Route(lab, flavour, runs)
    route.network.refuse()
    route.network.cut()
    route.run.fails("connection", times=failures)
    route.healed()


# --- TLS -----------------------------------------------------------------------------------------------------


def _tls_url(port: int, authority: Path, host: str = "localhost") -> str:
    return f"rediss://{host}:{port}?{urlencode({'tls_ca': authority})}"


@pytest.fixture
def tls_server(lab: Lab) -> Server:
    return lab.tls_server()


def _tls_read_url(server: Server) -> str:
    assert server.tls is not None
    return _tls_url(server.port, server.tls.authority)


def test_tls_where_the_server_speaks_plainly(lab: Lab, tls_server: Server, runs: Runs) -> None:
    plain = lab.server(Flavour.REDIS)
    network = lab.proxy(plain)
    assert tls_server.tls is not None
    run = runs(_tls_url(network.port, tls_server.tls.authority), read_url=_tls_read_url(tls_server))
    run.fails("tls", "connection", "timeout", times=2)
    network.target_port = tls_server.port
    run.goes_on()
    run.check(loses=False)


def test_plain_where_the_server_speaks_tls(lab: Lab, tls_server: Server, runs: Runs) -> None:
    plain = lab.server(Flavour.REDIS)
    network = lab.proxy(tls_server)
    run = runs(f"redis://127.0.0.1:{network.port}", read_url=plain.url)
    run.fails("tls", "connection", "timeout", times=2)
    network.target_port = plain.port
    run.goes_on()
    run.check(loses=False)


def test_an_authority_that_did_not_sign(tls_server: Server, runs: Runs, tmp_path: Path) -> None:
    assert tls_server.tls is not None
    trusted = tmp_path / "ca.pem"
    shutil.copy(tls_server.tls.wrong_authority, trusted)
    run = runs(_tls_url(tls_server.port, trusted), read_url=_tls_read_url(tls_server))
    run.fails("tls", times=2)
    shutil.copy(tls_server.tls.authority, trusted)
    run.goes_on()
    run.check(loses=False)


def test_a_certificate_for_another_name(lab: Lab, runs: Runs) -> None:
    right = lab.certificates()
    elsewhere = Certificates("elsewhere.invalid")
    try:
        server = lab.tls_server(certificates=elsewhere)
        run = runs(
            _tls_url(server.port, elsewhere.authority),
            read_url=None,
            timeouts="timeout=1s&connect_timeout=1s",
        )
        run.fails("tls", times=2)
        shutil.copy(right.server, elsewhere.server)
        shutil.copy(right.server_key, elsewhere.server_key)
        shutil.copy(right.authority, elsewhere.authority)
        server.kill()
        server.start()
        run.goes_on()
        run.check(loses=False)
    finally:
        elsewhere.close()


def test_a_certificate_that_has_expired(lab: Lab, runs: Runs) -> None:
    import trustme

    certificates = lab.certificates()
    authority = trustme.CA()
    now = datetime.now(timezone.utc)
    certificates.authority.write_bytes(authority.cert_pem.bytes())

    def install(leaf: trustme.LeafCert) -> None:
        certificates.server.write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
        certificates.server_key.write_bytes(leaf.private_key_pem.bytes())

    install(
        authority.issue_cert(
            "localhost", "127.0.0.1", not_before=now - timedelta(days=2), not_after=now - timedelta(days=1)
        )
    )
    server = _ServerByHand(lab, certificates)
    run = runs(_tls_url(server.port, certificates.authority), timeouts="timeout=1s&connect_timeout=1s")
    run.fails("tls", times=2)
    install(authority.issue_cert("localhost", "127.0.0.1"))
    server.renew()
    run.goes_on()
    run.check(loses=False)


class _ServerByHand:
    """A server whose certificate nobody would take: it is waited for without TLS, then told to speak it."""

    def __init__(self, lab: Lab, certificates: Certificates) -> None:
        from redis_servers.processes import free_port

        self.port = free_port()
        settings = {"tls-port": self.port, **certificates.server_settings(mutual=False)}
        self._server = lab.server(Flavour.REDIS, settings)

    def renew(self) -> None:
        """Read the certificate again."""
        client = self._server.client()
        client.config_set("tls-cert-file", str(client.config_get("tls-cert-file")["tls-cert-file"]))
