"""Where to: the variables, TLS over both protocols, and what each of them means."""

from __future__ import annotations

import ssl

import grpc
import pytest
import trustme

from delivery.conftest import record
from delivery.receivers import GrpcReceiver, HttpReceiver
from papyra_otel.errors import ConfigError
from papyra_otel.pipeline.delivery.target import GRPC, HTTP, Target

P = "OTEL_EXPORTER_OTLP_"


@pytest.mark.parametrize(
    ("environ", "protocol", "endpoint", "insecure"),
    [
        ({}, GRPC, "localhost:4317", True),
        ({"PROTOCOL": "http/protobuf"}, HTTP, "http://localhost:4318/v1/logs", True),
        ({"PROTOCOL": "HTTP/Protobuf ", "ENDPOINT": "https://c:1/x/"}, HTTP, "https://c:1/x/v1/logs", False),
        ({"LOGS_PROTOCOL": "http/protobuf", "LOGS_ENDPOINT": "http://c/own"}, HTTP, "http://c/own", True),
        ({"PROTOCOL": "http/protobuf", "LOGS_PROTOCOL": "grpc"}, GRPC, "localhost:4317", True),
        ({"ENDPOINT": "https://c:4317"}, GRPC, "c:4317", False),
        ({"ENDPOINT": "c:4317"}, GRPC, "c:4317", False),
        ({"ENDPOINT": "c:4317", "INSECURE": "true"}, GRPC, "c:4317", True),
        ({"ENDPOINT": "http://c:1", "LOGS_ENDPOINT": "https://d:2"}, GRPC, "d:2", False),
        ({"ENDPOINT": "unix:/run/c.sock", "LOGS_INSECURE": "True"}, GRPC, "unix:/run/c.sock", True),
    ],
)
def test_variables_mean_what_the_specification_says(environ, protocol, endpoint, insecure):
    target = Target.load({P + name: value for name, value in environ.items()})
    assert (target.protocol, target.endpoint, target.insecure) == (protocol, endpoint, insecure)


def test_those_of_the_signal_go_first():
    target = Target.load(
        {
            f"{P}HEADERS": "a=1",
            f"{P}LOGS_HEADERS": "b=two%20words,c=3",
            f"{P}TIMEOUT": "3",
            f"{P}LOGS_TIMEOUT": "4.5",
            f"{P}COMPRESSION": "none",
            f"{P}LOGS_COMPRESSION": "gzip",
        }
    )
    assert dict(target.headers) == {"b": "two words", "c": "3"}
    assert target.timeout_seconds == 4.5
    assert target.compression == "gzip"


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({"PROTOCOL": "http/json"}, "PROTOCOL='http/json'"),
        ({"PROTOCOL": "http/protobuf", "ENDPOINT": "collector:4318"}, "ENDPOINT='collector:4318'"),
        ({"PROTOCOL": "http/protobuf", "ENDPOINT": "http://"}, "ENDPOINT"),
        ({"ENDPOINT": "https://"}, "ENDPOINT"),
        ({"COMPRESSION": "deflate"}, "COMPRESSION='deflate'"),
        ({"TIMEOUT": "ten"}, "TIMEOUT='ten'"),
        ({"TIMEOUT": "0"}, "TIMEOUT='0'"),
        ({"TIMEOUT": "inf"}, "TIMEOUT='inf'"),
        ({"CLIENT_KEY": "/no/such/file"}, "CLIENT_KEY='/no/such/file'"),
    ],
)
def test_what_is_wrong_is_named(environ, said):
    with pytest.raises(ConfigError) as raised:
        Target.load({P + name: value for name, value in environ.items()})
    assert f"{P}{said}" in str(raised.value)


def test_secrets_are_not_shown():
    target = Target.load(
        {
            f"{P}PROTOCOL": "http/protobuf",
            f"{P}ENDPOINT": "http://me:hunter2@collector",
            f"{P}HEADERS": "authorization=hunter3",
        }
    )
    assert "hunter" not in target.shown
    assert "hunter3" not in repr(target)


# --- TLS ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def files(authority, tmp_path) -> dict[str, str]:
    """What a client is given: who signs, and its own certificate and key."""
    client = authority.issue_cert("client@shop")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    client.cert_chain_pems[0].write_to_path(tmp_path / "client.pem")
    client.private_key_pem.write_to_path(tmp_path / "client.key")
    names = {"CERTIFICATE": "ca.pem", "CLIENT_CERTIFICATE": "client.pem", "CLIENT_KEY": "client.key"}
    return {P + name: str(tmp_path / file) for name, file in names.items()}


@pytest.fixture(params=["http", "grpc"])
def secured(request, authority, tmp_path):
    """A receiver that wants to see a certificate of ours."""
    server = authority.issue_cert("localhost", "127.0.0.1")
    if request.param == "http":
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server.configure_cert(context)
        authority.configure_trust(context)
        context.verify_mode = ssl.CERT_REQUIRED
        made = HttpReceiver(tls=context)
    else:
        pair = (server.private_key_pem.bytes(), server.cert_chain_pems[0].bytes())
        made = GrpcReceiver(
            credentials=grpc.ssl_server_credentials(
                [pair], authority.cert_pem.bytes(), require_client_auth=True
            )
        )
    yield made
    made.close()


def test_facts_are_delivered_over_mutual_tls(url, secured, files, new_delivery):
    uids = record(url, range(5))
    environ = {**files, f"{P}ENDPOINT": f"https://localhost:{secured.port}"}
    assert new_delivery(secured, environ=environ).run() is True
    assert secured.uids == uids


def test_a_receiver_that_cannot_prove_who_it_is_gets_nothing(url, secured, files, new_delivery, tmp_path):
    record(url, range(5))
    trustme.CA().cert_pem.write_to_path(tmp_path / "ca.pem")
    environ = {**files, f"{P}ENDPOINT": f"https://localhost:{secured.port}"}
    delivery = new_delivery(secured, environ=environ)
    delivery.deliverer._wait = lambda seconds: True
    delivery.deliverer._ended.set()
    assert delivery.run() is False
    assert secured.requests == []
    assert any("certificate" in told.lower() or "ssl" in told.lower() for told in delivery.told)
