"""A real collector in a process of its own, with one of our configurations, and what came out of it."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from collector.build import CONFIGS
from e2e.harness import clean_environment, eventually

PATIENCE = 60.0  # seconds, for a busy machine


def free_port() -> int:
    """Return a port that nobody uses now."""
    with socket.socket() as made:
        made.bind(("127.0.0.1", 0))
        return int(made.getsockname()[1])


@dataclass(frozen=True)
class Arrived:
    """One log record in the gateway's file. Values are as in OTLP's JSON, so 1 and 1.0 differ."""

    name: str
    time: int
    severity: tuple[str, int]
    trace: tuple[str, str]
    scope: str
    resource: Mapping[str, Any]
    attributes: Mapping[str, Any]
    body: Any

    @property
    def uid(self) -> str | None:
        return self.attributes.get("log.record.uid", {}).get("stringValue")


class Collector:
    """*configs* are files of collector-config/, each laid over those before it. It runs when ``start`` returns."""

    def __init__(self, program: Path, folder: Path, *configs: str, **more: str) -> None:
        self.program, self.folder, self.configs = program, folder, configs
        self.ports = {name: free_port() for name in ("grpc", "http", "scrape", "health", "metrics")}
        self.environ = {
            "COLLECTOR_STATE": f"{folder}/state",
            "COLLECTOR_OUTPUT": f"{folder}/output",
            "COLLECTOR_HEALTH": self.at("health"),
            "COLLECTOR_METRICS_PORT": str(self.ports["metrics"]),
            "OTLP_GRPC": self.at("grpc"),
            "OTLP_HTTP": self.at("http"),
            "PROMETHEUS_SCRAPE": self.at("scrape"),
            "GATEWAY_INSECURE": "true",
            **more,
        }
        folder.mkdir(parents=True, exist_ok=True)
        self.log = folder / "collector.log"
        self.process: subprocess.Popen[bytes] | None = None

    def at(self, port: str) -> str:
        """Return the address of one of its doors."""
        return f"127.0.0.1:{self.ports[port]}"

    def command(self, *verbs: str) -> list[str]:
        return [str(self.program), *verbs, *(f"--config={CONFIGS / name}" for name in self.configs)]

    def validate(self) -> subprocess.CompletedProcess[str]:
        """Have it read its configuration, and say what is wrong with it."""
        env = clean_environment(self.environ)
        return subprocess.run(
            self.command("validate"), env=env, capture_output=True, text=True, check=False, timeout=PATIENCE
        )

    def start(self) -> Collector:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command(),
                env=clean_environment(self.environ),
                stdin=subprocess.DEVNULL,
                stderr=log,
                stdout=log,
            )
        eventually(self._is_ready, PATIENCE)
        return self

    def _is_ready(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log.read_text()
        try:
            with urllib.request.urlopen(f"http://{self.at('health')}/", timeout=5) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def kill(self) -> None:
        """End it as the kernel does when memory is out."""
        self._end(signal.SIGKILL)

    def stop(self) -> int:
        """Ask it to end, as Kubernetes does; return its exit status."""
        return self._end(signal.SIGTERM)

    def _end(self, how: signal.Signals) -> int:
        assert self.process is not None
        self.process.send_signal(how)
        try:
            return self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.kill()

    def complaints(self) -> list[str]:
        """Return the warnings and errors that it logged."""
        return [
            line for line in self.log.read_text().splitlines() if "\twarn\t" in line or "\terror\t" in line
        ]

    def otlp(self, protocol: str) -> dict[str, str]:
        """Return the variables that make a program send everything here, with *protocol*."""
        door = "grpc" if protocol == "grpc" else "http"
        return {
            **{f"OTEL_{signal}_EXPORTER": "otlp" for signal in ("LOGS", "METRICS", "TRACES")},
            "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{self.at(door)}",
        }

    def scrape(self) -> str:
        """Return what Prometheus would read."""
        with urllib.request.urlopen(f"http://{self.at('scrape')}/metrics", timeout=30) as answer:
            return str(answer.read().decode())

    def arrived(self) -> list[Arrived]:
        """Return the log records in the file, in order; a line that is being written is left for later."""
        path = Path(self.environ["COLLECTOR_OUTPUT"], "facts.json")
        if not path.exists():
            return []
        lines = path.read_bytes().split(b"\n")[:-1]
        return [record for line in lines for record in _records(json.loads(line))]

    def facts(self) -> list[Arrived]:
        """Return those of the log records that are facts."""
        return [record for record in self.arrived() if record.uid is not None]

    def count(self) -> Counter[str]:
        """Return how often each fact arrived."""
        return Counter(str(record.uid) for record in self.facts())


def _records(request: dict[str, Any]) -> Iterator[Arrived]:
    for of_resource in request["resourceLogs"]:
        for of_scope in of_resource["scopeLogs"]:
            for record in of_scope["logRecords"]:
                yield Arrived(
                    name=record.get("eventName", ""),
                    time=int(record.get("timeUnixNano", 0)),
                    severity=(record.get("severityText", ""), record.get("severityNumber", 0)),
                    trace=(record.get("traceId", ""), record.get("spanId", "")),
                    scope=of_scope.get("scope", {}).get("name", ""),
                    resource=_values(of_resource.get("resource", {}).get("attributes", [])),
                    attributes=_values(record.get("attributes", [])),
                    body=record.get("body", {}),
                )


def _values(pairs: list[dict[str, Any]]) -> dict[str, Any]:
    return {pair["key"]: pair["value"] for pair in pairs}
