"""What the end-to-end tests share: programs in processes of their own, and a receiver that speaks OTLP/HTTP."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from google.protobuf.message import Message
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from papyra_otel import Fact, open_log
from registry.plugin import SEEN

PROGRAMS = Path(__file__).parent / "programs"
INSTRUMENT = shutil.which("opentelemetry-instrument", path=str(Path(sys.executable).parent)) or ""
NO_EXPORT = {
    "OTEL_LOGS_EXPORTER": "none",
    "OTEL_METRICS_EXPORTER": "none",
    "OTEL_TRACES_EXPORTER": "none",
}


def eventually(condition: Callable[[], object], seconds: float = 20.0) -> None:
    """Return when *condition* holds, which other processes bring about; fail after *seconds*."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.005)


def clean_environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment without what would configure Python or OpenTelemetry, and with *more*."""
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "PYTHON", "COV"))
    }
    return kept | dict(more or {})


def command(program: Path, *, instrument: bool = False, flags: tuple[str, ...] = ()) -> list[str]:
    """Return the command line that runs *program*, under ``opentelemetry-instrument`` if asked."""
    front = [INSTRUMENT, *flags] if instrument else []
    return [*front, sys.executable, str(program)]


def run(
    arguments: list[str],
    *,
    cwd: Path,
    env: Mapping[str, str] | None = None,
    seconds: float = 40.0,
    **options: Any,
) -> subprocess.CompletedProcess[str]:
    """Run to the end, with an empty stdin."""
    return subprocess.run(
        arguments,
        cwd=cwd,
        env=clean_environment(env),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
        **options,
    )


def run_code(
    code: str, *arguments: object, cwd: Path, env: Mapping[str, str] | None = None, code_of: int | None = 0
) -> subprocess.CompletedProcess[str]:
    """Run *code* with ``sys.argv[1:]`` *arguments*; it must end with exit code *code_of* (None: whatever)."""
    script = cwd / "program.py"
    script.write_text(code, "utf-8")
    done = run([sys.executable, str(script), *map(str, arguments)], cwd=cwd, env=env)
    assert code_of is None or done.returncode == code_of, f"{done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


@contextmanager
def serving(
    arguments: list[str], *, cwd: Path, env: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[str]]:
    """Run a program that serves until its stdin closes; kill it if the test leaves early."""
    with subprocess.Popen(
        arguments,
        cwd=cwd,
        env=clean_environment(env),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)


def stored(root: Path, **query: Any) -> list[Fact]:
    """Return the facts in the file log at *root*; none while it does not exist."""
    if not root.exists():
        return []
    with open_log(f"file:{root}") as log:
        facts = [entry.fact for entry in log.read(**query)]
    for fact in facts:
        SEEN.stored(fact)
    return facts


def segments(root: Path) -> dict[Path, bool]:
    """Return every segment below *root*, and whether it is sealed."""
    return {
        path: b'"kind":"segment.seal"' in path.read_bytes().splitlines()[-1]
        for path in sorted(root.rglob("*.ndjson"))
    }


# --- the receiver -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Received:
    """One log record at the receiver."""

    scope: str
    name: str
    time_unix_nano: int
    severity_text: str
    severity_number: int
    attributes: Mapping[str, Any]
    trace_id: str
    span_id: str
    service: str | None


@dataclass(frozen=True)
class Point:
    """One number of one metric at the receiver, the newest export only."""

    value: float
    attributes: Mapping[str, Any]


class Receiver:
    """A collector's OTLP/HTTP door, with protobuf; it keeps everything it is sent."""

    def __init__(self) -> None:
        self.logs: list[ExportLogsServiceRequest] = []
        self.metrics: list[ExportMetricsServiceRequest] = []
        self.traces: list[ExportTraceServiceRequest] = []
        kinds: dict[str, tuple[type[Message], list[Any]]] = {
            "/v1/logs": (ExportLogsServiceRequest, self.logs),
            "/v1/metrics": (ExportMetricsServiceRequest, self.metrics),
            "/v1/traces": (ExportTraceServiceRequest, self.traces),
        }

        class Door(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                message, kept = kinds[self.path]
                body = self.rfile.read(int(self.headers["Content-Length"]))
                kept.append(message.FromString(body))
                self.send_response(200)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Door)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    @property
    def environment(self) -> dict[str, str]:
        """What makes an SDK send its logs and metrics here."""
        return {
            "OTEL_LOGS_EXPORTER": "otlp",
            "OTEL_METRICS_EXPORTER": "otlp",
            "OTEL_TRACES_EXPORTER": "none",
            "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{self._server.server_port}",
            "OTEL_SERVICE_NAME": "shop-service",
        }

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)
        self._see()

    def _see(self) -> None:
        """Let what programs sent be compared with the registry."""
        for record in self.records():
            if record.scope == "papyra_otel" and record.name.startswith("papyra."):
                SEEN.event(record.name, record.severity_text, record.attributes)
        for each in self._our_metrics():
            kind = each.WhichOneof("data")
            if kind == "sum":
                kind = "counter" if each.sum.is_monotonic else "updowncounter"
            SEEN.instrument(each.name, str(kind), each.unit)
            for point in getattr(each, str(each.WhichOneof("data"))).data_points:
                SEEN.point(each.name, _attributes(point.attributes))

    def records(self) -> list[Received]:
        """Return every log record received."""
        return [
            Received(
                scope=scope.scope.name,
                name=record.event_name,
                time_unix_nano=record.time_unix_nano,
                severity_text=record.severity_text,
                severity_number=record.severity_number,
                attributes=_attributes(record.attributes),
                trace_id=record.trace_id.hex(),
                span_id=record.span_id.hex(),
                service=_attributes(resource.resource.attributes).get("service.name"),
            )
            for request in self.logs
            for resource in request.resource_logs
            for scope in resource.scope_logs
            for record in scope.log_records
        ]

    def points(self, metric: str) -> list[Point]:
        """Return the numbers of *metric* as last exported."""
        newest: list[Point] = []
        for request in self.metrics:
            for resource in request.resource_metrics:
                for scope in resource.scope_metrics:
                    for each in scope.metrics:
                        if each.name == metric:
                            data = each.sum if each.HasField("sum") else each.gauge
                            newest = [
                                Point(
                                    point.as_int if point.HasField("as_int") else point.as_double,
                                    _attributes(point.attributes),
                                )
                                for point in data.data_points
                            ]
        return newest

    def metric_names(self) -> set[str]:
        """Return the names of all metrics in our scope."""
        return {each.name for each in self._our_metrics()}

    def _our_metrics(self) -> list[Any]:
        return [
            each
            for request in self.metrics
            for resource in request.resource_metrics
            for scope in resource.scope_metrics
            if scope.scope.name == "papyra_otel"
            for each in scope.metrics
        ]


def _attributes(pairs: Any) -> dict[str, Any]:
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: Any) -> Any:
    which = value.WhichOneof("value")
    if which is None:
        return None
    if which == "array_value":
        return [_value(each) for each in value.array_value.values]
    if which == "kvlist_value":
        return _attributes(value.kvlist_value.values)
    return getattr(value, which)
