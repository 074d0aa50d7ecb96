"""Facts and metrics of real programs get through a real collector: each once, whole, by every way there is."""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from collector.running import PATIENCE, Arrived, Collector
from collector.truth import expected, told
from delivery.receivers import HttpReceiver
from e2e.harness import INSTRUMENT, PROGRAMS, command, eventually, run
from registry.definitions import registry
from registry.reference import prometheus_label, prometheus_name, prometheus_type

RUNTIMES = {"papyra": ("papyra_shop.py", "shop"), "pykka": ("pykka_shop.py", "shop-service")}
NO_EXPORT = {f"OTEL_{signal}_EXPORTER": "none" for signal in ("LOGS", "METRICS")}


def record(runtime: str, root: Path, env: dict[str, str]) -> None:
    """Run a real program to its end, recorded into the log at *root*."""
    settings = {
        "OTEL_PYTHON_PAPYRA_LOG": f"file:{root}",
        "OTEL_PYTHON_PAPYRA_SPANS": "always",  # so that facts have trace ids
        "OTEL_SERVICE_NAME": "shop-service",
        "OTEL_TRACES_EXPORTER": "console",  # any: without one there are no spans
    }
    program = PROGRAMS / RUNTIMES[runtime][0]
    done = run(command(program, instrument=True), cwd=root.parent, env=settings | env, seconds=PATIENCE)
    assert done.returncode == 3, done.stderr


def described(record: Arrived) -> dict[str, Any]:
    """Return all that is compared of a record."""
    return {
        name: getattr(record, name)
        for name in ("name", "time", "severity", "trace", "scope", "attributes", "body")
    }


def assert_arrived(gateway: Collector, root: Path, *, times: int = 1) -> None:
    """Wait for all facts that leave the machine; they must have arrived as the log has them, *times* times."""
    wanted = expected(root)
    eventually(lambda: wanted.keys() <= gateway.count().keys(), PATIENCE)
    assert gateway.count() == Counter(dict.fromkeys(wanted, times))
    for arrived in gateway.facts():
        assert described(arrived) == wanted[str(arrived.uid)]
        assert arrived.resource["service.name"] == {"stringValue": "shop-service"}
        assert "service.instance.id" in arrived.resource
    names = Counter(fact["name"] for fact in wanted.values())
    assert names["papyra.actor.started"] >= 4  # it is no empty comparison
    assert names["papyra.dead_letter.captured"] >= 4
    assert any(fact["trace"] != ("", "") for fact in wanted.values())


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("forward", ["live", "outbox"])
def test_facts_and_metrics_arrive_by_otlp(
    forward: str, runtime: str, protocol: str, gateway: Collector, loki: HttpReceiver, tmp_path: Path
) -> None:
    root = tmp_path / "facts"
    sdk = gateway.otlp(protocol) | ({} if forward == "live" else {"OTEL_LOGS_EXPORTER": "none"})
    record(runtime, root, sdk | {"OTEL_PYTHON_PAPYRA_FORWARD": forward})
    assert_arrived(gateway, root)
    eventually(lambda: set(expected(root)) <= set(loki.uids), PATIENCE)
    assert loki.headers[0]["path"] == "/otlp/v1/logs"
    assert_metrics_as_documented(gateway.scrape(), root)


def assert_metrics_as_documented(scraped: str, root: Path) -> None:
    """Compare names, types and labels with the reference, and how many facts were recorded with the log."""
    ours = registry().metrics.values()
    documented = {prometheus_name(each): prometheus_type(each) for each in ours}
    labels = {prometheus_name(each): set(map(prometheus_label, each.attributes)) for each in ours}
    types = dict(re.findall(r"(?m)^# TYPE (papyra_\S+) (\S+)$", scraped))
    assert types.items() <= documented.items()
    assert {
        "papyra_persistence_records_total",
        "papyra_actor_starts_total",
        "papyra_dead_letter_messages_total",
    } <= set(types)
    for name, series in re.findall(r"(?m)^(papyra_\w+)\{([^}]*)\}", scraped):
        metric = name if name in documented else re.sub(r"_(bucket|sum|count)$", "", name)
        assert set(re.findall(r'(\w+)="', series)) - {"le", "job", "instance"} <= labels[metric]
        assert 'job="shop-service"' in series
    recorded = Counter[str]()
    for kind, number in re.findall(
        r'(?m)^papyra_persistence_records_total\{.*papyra_fact_kind="(\w+)".*\} (\d+)', scraped
    ):
        recorded[kind] += int(number)
    assert recorded["dead_letter"] == Counter(fact["kind"] for fact in told(root))["dead_letter"]


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_the_agent_reads_facts_from_their_files(
    runtime: str, gateway: Collector, new_collector: Callable[..., Collector], tmp_path: Path
) -> None:
    root = tmp_path / "facts"
    agent = new_collector("agent", "agent.yaml", PAPYRA_FACTS=str(root), GATEWAY=gateway.at("grpc")).start()
    record(runtime, root, NO_EXPORT | {"OTEL_PYTHON_PAPYRA_FORWARD": "off"})
    assert_arrived(gateway, root)
    assert agent.stop() == 0
    record(runtime, root, NO_EXPORT | {"OTEL_PYTHON_PAPYRA_FORWARD": "off"})  # while it is away
    agent.start()
    assert_arrived(gateway, root)
    assert [record for record in gateway.arrived() if record.uid is None] == []


def test_ship_beside_a_program_delivers_the_same(gateway: Collector, tmp_path: Path) -> None:
    root = tmp_path / "facts"
    record("pykka", root, NO_EXPORT | {"OTEL_PYTHON_PAPYRA_FORWARD": "off"})
    ship = [str(Path(sys.executable).parent / "papyra-otel"), "ship", "--log", f"file:{root}"]
    done = run(ship, cwd=tmp_path, env=gateway.otlp("grpc"), seconds=PATIENCE)
    assert done.returncode == 0, done.stderr
    assert_arrived(gateway, root)


def test_a_damaged_line_is_told_and_costs_no_other(
    gateway: Collector, new_collector: Callable[..., Collector], tmp_path: Path
) -> None:
    root = tmp_path / "facts"
    record("pykka", root, NO_EXPORT | {"OTEL_PYTHON_PAPYRA_FORWARD": "off"})
    whole = expected(root)
    (segment,) = root.glob("*/dead_letters/*.ndjson")
    header, first, *others = segment.read_bytes().splitlines(keepends=True)
    segment.write_bytes(b"".join([header, first[:40] + b"\n", *others]))
    new_collector("agent", "agent.yaml", PAPYRA_FACTS=str(root), GATEWAY=gateway.at("grpc")).start()
    eventually(lambda: len(gateway.arrived()) == len(whole), PATIENCE)
    (damaged,) = [record for record in gateway.arrived() if record.uid is None]
    assert damaged.body == {"stringValue": first[:40].decode()}
    assert damaged.severity == ("ERROR", 17)
    assert damaged.attributes["papyra.anomaly.type"] == {"stringValue": "corrupt_line"}
    assert damaged.resource["service.name"] == {"stringValue": "shop-service"}


def test_programs_are_instrumented_at_all() -> None:
    assert INSTRUMENT
