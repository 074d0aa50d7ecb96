"""``scan``, ``recover`` and ``compact`` export what they count and find, once, and depend on it in nothing."""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.harness import Receiver, run
from papyra_otel import open_log
from papyra_otel import semconv as s
from papyra_otel.cli import main
from papyra_otel.config import otlp_protocols
from papyra_otel.testing import make_fact


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.close()


@pytest.fixture
def damaged(tmp_path: Path) -> str:
    """A log of twenty facts, one of them damaged."""
    with open_log(f"file:{tmp_path}/facts") as log:
        log.append([make_fact(n, kind="event", attributes={}) for n in range(20)])
    (path,) = (tmp_path / "facts").rglob("events/*.ndjson")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x55
    path.write_bytes(content)
    return f"file:{tmp_path}/facts"


@pytest.fixture
def exporting(monkeypatch: pytest.MonkeyPatch, receiver: Receiver) -> Receiver:
    """Let the environment name *receiver*."""
    for name, value in receiver.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("OTEL_PYTHON_PAPYRA_EXIT_TIMEOUT", "20s")  # nothing here hangs, but machines are busy
    return receiver


def values(receiver: Receiver, metric: str, *names: str) -> dict[tuple[object, ...], float]:
    return {tuple(p.attributes.get(n) for n in names): p.value for p in receiver.points(metric)}


def test_a_scan_exports_what_it_counted_and_found(exporting, damaged, capsys):
    assert main(["scan", "--log", damaged, "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert values(exporting, s.PERSISTENCE_SCANS, s.BACKEND_TYPE, s.ERROR_TYPE) == {("file", None): 1}
    assert values(exporting, s.ANOMALY_COUNT, s.BACKEND_TYPE) == {("file",): sum(told["counts"].values())}
    found = {
        name for (name,), count in values(exporting, s.PERSISTENCE_ANOMALIES, s.ANOMALY_TYPE).items() if count
    }
    assert found == told["counts"].keys()
    assert values(exporting, s.STORAGE_RECORDS, s.FACT_KIND)[("event",)] == told["kinds"]["event"]["records"]
    assert s.OPERATION_DURATION in exporting.metric_names()
    assert not {s.QUEUE_SIZE, s.QUEUE_CAPACITY, s.QUEUE_OLDEST_AGE} & exporting.metric_names()
    names = [record.name for record in exporting.records()]
    assert names == [s.LOG_ANOMALY] * len(told["anomalies"]) + [s.LOG_SCANNED]
    assert {record.service for record in exporting.records()} == {"shop-service"}


def test_a_scan_stores_nothing(exporting, damaged, tmp_path):
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    main(["scan", "--log", damaged])
    assert exporting.records()
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_recovery_exports_the_fact_that_it_stored(exporting, damaged, capsys):
    assert main(["recover", "--log", damaged]) == 0
    counted = values(exporting, s.PERSISTENCE_RECOVERIES, s.RECOVERY_MODE)
    assert counted == {("quarantine",): 1, ("repair",): 0}
    with open_log(damaged) as log:
        stored = [entry.fact for entry in log.read(name=s.LOG_RECOVERED)]
    sent = [record for record in exporting.records() if record.name == s.LOG_RECOVERED]
    assert [record.attributes[s.LOG_RECORD_UID] for record in sent] == [fact.uid for fact in stored]
    assert capsys.readouterr().err == ""


def test_a_compaction_exports_what_it_removed(exporting, damaged):
    main(["recover", "--log", damaged])
    exporting.metrics.clear()
    assert main(["compact", "--log", damaged, "--retention", "events=1"]) == 0
    assert values(exporting, s.PERSISTENCE_COMPACTIONS, s.ERROR_TYPE) == {(None,): 1}
    assert s.LOG_COMPACTED in {record.name for record in exporting.records()}


def test_a_dry_run_counts_as_nothing(exporting, damaged):
    assert main(["recover", "--log", damaged, "--dry-run"]) == 1
    assert set(values(exporting, s.PERSISTENCE_RECOVERIES, s.RECOVERY_MODE).values()) == {0}
    assert exporting.records() == []


def test_a_scan_that_fails_is_counted_and_ends_as_without(exporting, damaged, monkeypatch, capsys):
    from papyra_otel import LogUnavailable
    from papyra_otel.log.file import filelog

    def fails(*_, **__):
        raise LogUnavailable("the disk is broken", error_type="EIO")

    monkeypatch.setattr(filelog.FileLog, "scan", fails)
    assert main(["scan", "--log", damaged]) == 2
    assert capsys.readouterr().err == "papyra-otel: error: the disk is broken\n"
    assert values(exporting, s.PERSISTENCE_SCANS, s.ERROR_TYPE) == {(None,): 0, ("EIO",): 1}


@pytest.mark.parametrize(("forward", "names"), [("off", []), ("outbox", [s.LOG_ANOMALY])])
def test_facts_leave_as_forwarding_allows(exporting, damaged, monkeypatch, forward, names):
    """With an outbox, what is stored leaves by that; what was only found is in no log."""
    monkeypatch.setenv("OTEL_PYTHON_PAPYRA_FORWARD", forward)
    main(["recover", "--log", damaged])
    assert sorted({record.name for record in exporting.records()}) == names
    assert s.PERSISTENCE_RECOVERIES in exporting.metric_names()


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_a_receiver_that_is_not_there_changes_nothing_but_one_remark(damaged, monkeypatch, capsys, protocol):
    assert main(["scan", "--log", damaged]) == 1
    alone = capsys.readouterr()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)
    monkeypatch.setenv("OTEL_PYTHON_PAPYRA_EXIT_TIMEOUT", "100ms")
    assert main(["scan", "--log", damaged]) == 1
    told = capsys.readouterr()
    assert told.out.replace("\n", "").split("in")[0] == alone.out.replace("\n", "").split("in")[0]
    assert told.err.startswith("Telemetry of this run was not exported: ")
    assert told.err.count("\n") <= 2


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_a_receiver_that_hangs_does_not_keep_the_command(damaged, tmp_path, protocol):
    with socket.create_server(("127.0.0.1", 0)) as hanging:  # takes connections, and never says a word
        env = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{hanging.getsockname()[1]}",
            "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
            "OTEL_PYTHON_PAPYRA_EXIT_TIMEOUT": "200ms",
        }
        done = run([sys.executable, "-m", "papyra_otel", "scan", "--log", damaged], cwd=tmp_path, env=env)
    assert done.returncode == 1
    said = done.stderr.splitlines()
    assert said
    assert all(line.startswith("Telemetry of this run was not exported: ") for line in said)
    assert (
        "logs: no answer in 0.2 s." in done.stderr or "logs and metrics: no answer in 0.2 s." in done.stderr
    )


def test_wrong_settings_are_told(damaged, monkeypatch, capsys):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json")
    assert main(["scan", "--log", damaged]) == 1
    assert capsys.readouterr().err == (
        "Telemetry of this run was not exported: logs: the protocol 'http/json' is not grpc or http/protobuf.\n"
        "Telemetry of this run was not exported: metrics: the protocol 'http/json' is not grpc or http/protobuf.\n"
    )


ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}
BOTH = {"logs": "grpc", "metrics": "grpc"}


@pytest.mark.parametrize(
    ("environ", "protocols"),
    [
        ({}, {}),
        (ENDPOINT, BOTH),
        ({**ENDPOINT, "OTEL_SDK_DISABLED": "true"}, {}),
        ({**ENDPOINT, "OTEL_LOGS_EXPORTER": "none"}, {"metrics": "grpc"}),
        ({**ENDPOINT, "OTEL_METRICS_EXPORTER": "prometheus"}, {"logs": "grpc"}),
        ({**ENDPOINT, "OTEL_LOGS_EXPORTER": "papyra,otlp"}, BOTH),
        ({**ENDPOINT, "OTEL_LOGS_EXPORTER": "otlp_proto_http"}, {**BOTH, "logs": "http/protobuf"}),
        (
            {**ENDPOINT, "OTEL_EXPORTER_OTLP_LOGS_PROTOCOL": "http/protobuf"},
            {**BOTH, "logs": "http/protobuf"},
        ),
        ({"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://collector:4318"}, {"metrics": "grpc"}),
        ({"OTEL_LOGS_EXPORTER": "otlp"}, {}),
    ],
)
def test_what_the_environment_asks_for(environ, protocols):
    assert otlp_protocols(environ) == protocols
