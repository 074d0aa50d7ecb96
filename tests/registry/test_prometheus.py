"""In a real Prometheus every metric has the name, type and labels that the reference page says."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from conftest import missing
from e2e.harness import clean_environment
from redis_servers.fixtures import require
from redis_servers.flavours import Flavour
from redis_servers.lab import Lab
from registry.definitions import registry
from registry.prometheus import PROGRAM, Prometheus, eventually, scraping
from registry.reference import PAGE, prometheus_label, prometheus_name, prometheus_type

pytestmark = pytest.mark.slow

METRICS = registry().metrics
SCOPE = {"otel_scope_name", "otel_scope_version", "otel_scope_schema_url"}  # which exporters add
TARGET = {"__name__", "job", "instance"}


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """One that has scraped a program which emits everything."""
    if PROGRAM is None:
        missing("there is no prometheus; install Debian's package of that name")
    folder = tmp_path_factory.mktemp("prometheus")
    program = Path(__file__).parent / "everything.py"
    env = {
        "PYTHONPATH": str(program.parents[1]),
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9",
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
    }
    with ExitStack() as stack:
        lab = Lab(require)
        stack.callback(lab.close)
        process = stack.enter_context(
            subprocess.Popen(
                [sys.executable, str(program), str(folder), lab.server(Flavour.VALKEY).url],
                env=clean_environment(env),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
        )
        stack.callback(process.kill)
        assert process.stdout is not None
        made = stack.enter_context(scraping(int(process.stdout.readline()), folder))
        names = {_series(metric.name) for metric in METRICS.values()}
        eventually(lambda: names <= set(made.ask("label/__name__/values")))
        yield made


def _series(name: str) -> str:
    """Return a series that shows that the metric *name* is there."""
    metric = METRICS[name]
    return prometheus_name(metric) + ("_count" if metric.instrument == "histogram" else "")


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_is_there_as_the_reference_says(prometheus, name):
    metric = METRICS[name]
    shown = prometheus_name(metric)
    assert f"| `{shown}` | {prometheus_type(metric)} |" in PAGE.read_text("utf-8")
    told = prometheus.ask("metadata", metric=shown) or prometheus.ask(
        "metadata", metric=shown.removesuffix("_total")
    )
    assert [each["type"] for each in next(iter(told.values()))] == [prometheus_type(metric)]
    series = prometheus.ask("series", **{"match[]": _series(name)})
    required = {prometheus_label(used.key) for used in metric.attributes.values() if used.level == "required"}
    allowed = {prometheus_label(key) for key in metric.attributes}
    for each in series:
        labels = each.keys() - TARGET - SCOPE
        assert required <= labels <= allowed


def test_nothing_else_of_ours_is_there(prometheus):
    names = {name for name in prometheus.ask("label/__name__/values") if name.startswith("papyra_")}
    expected = set()
    for metric in METRICS.values():
        shown = prometheus_name(metric)
        parts = ("_bucket", "_count", "_sum") if metric.instrument == "histogram" else ("",)
        expected |= {shown + part for part in parts}
    assert names == expected


@pytest.mark.parametrize(
    ("query", "value"),
    [
        ('papyra_actor_starts_total{papyra_system_id="stock"}', 1),
        ('papyra_persistence_queue_size{papyra_backend_type="file"}', 0),
        ('sum(papyra_dead_letter_messages_total{papyra_dead_letter_reason="undrained"})', 1),
        ('papyra_actor_stops_total{papyra_system_id="stock",papyra_actor_stop_reason="restart_limit"}', 0),
        ('sum(papyra_delivery_exported_total{error_type="400"})', 1),
    ],
)
def test_a_number_arrives_as_it_was_counted(prometheus, query, value):
    (result,) = eventually(lambda: prometheus.ask("query", query=query)["result"])
    assert float(result["value"][1]) == value
