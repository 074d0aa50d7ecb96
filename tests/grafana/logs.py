"""A store of facts that is asked with Loki's own LogQL engine: built from loki/, kept in a cache, run by a test."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from collector.build import ASKED, cache_folder, find_go
from conftest import missing
from e2e.harness import eventually
from papyra_otel.grafana.loki import LOKI_ALERTS
from papyra_otel.grafana.rules import Conditions
from redis_servers.processes import free_port

SOURCES = Path(__file__).with_name("loki")
LINES_MAX = 1000  # what Grafana asks for in a panel of lines
STEP_SECONDS = 0.5  # between two evaluations of a rule


def built() -> Path:
    """Return the program of these sources and this Go; build it if nobody has yet. Processes wait for each other."""
    go = find_go()
    if go is None:
        missing(ASKED)
    version = subprocess.run([str(go), "version"], capture_output=True, check=True).stdout
    sources = sorted(path for path in SOURCES.iterdir() if path.suffix in {".go", ".mod", ".sum"})
    made_from = hashlib.sha256(b"\0".join([version, *(path.read_bytes() for path in sources)])).hexdigest()
    folder = cache_folder() / f"logql-{made_from[:16]}"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "logql").exists():
            _build(str(go), folder / "logql")
    return folder / "logql"


def _build(go: str, program: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="papyra-logql-") as folder:
        # elsewhere, so that no go.work above this tree has a say
        shutil.copytree(SOURCES, f"{folder}/sources")
        unfinished = program.with_suffix(".new")
        command = [go, "build", "-mod=readonly", "-ldflags=-s -w", "-o", str(unfinished), "."]
        env = {**os.environ, "CGO_ENABLED": "0"}
        done = subprocess.run(
            command, cwd=f"{folder}/sources", env=env, capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            pytest.fail(f"{' '.join(command)} in {SOURCES} failed:\n{done.stdout}\n{done.stderr}")
        unfinished.rename(program)


@dataclass(frozen=True)
class Line:
    """One line that a query returned, and all its labels."""

    time: int
    labels: dict[str, str]
    text: str


class LogStore:
    """A server on a port of its own; it runs when the constructor returns."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.otlp = f"http://127.0.0.1:{self.port}/otlp"
        self._log = (folder / "logql.log").open("w")
        command = [str(built()), f"127.0.0.1:{self.port}"]
        self._process = subprocess.Popen(command, stdout=self._log, stderr=self._log)
        eventually(self._is_ready)

    def _is_ready(self) -> bool:
        assert self._process.poll() is None, "the store of facts ended; see logql.log"
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/ready", timeout=5):
                return True
        except OSError:
            return False

    def ask(self, path: str, **parameters: Any) -> Any:
        """Return what is answered; fail with what is said of a query that is wrong."""
        url = f"http://127.0.0.1:{self.port}/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=20) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as refused:
            pytest.fail(f"{parameters}: {refused.read().decode()}")

    def lines(self, expr: str, begin: float, end: float, limit: int = LINES_MAX) -> list[Line]:
        """Return the lines of *expr* as a panel does: newest first, and no more than *limit*."""
        data = self._range(expr, begin, end, limit=limit)
        assert data["resultType"] == "streams", expr
        found = [
            Line(int(time), stream["stream"], text)
            for stream in data["result"]
            for time, text in stream["values"]
        ]
        return sorted(found, key=lambda line: -line.time)

    def numbers(self, expr: str, at: float) -> list[tuple[dict[str, str], float]]:
        """Return the series that *expr* has at a time, each with its value."""
        data = self.ask("loki/api/v1/query", query=expr, time=_nanoseconds(at))["data"]
        assert data["resultType"] == "vector", expr
        return [(each["metric"], float(each["value"][1])) for each in data["result"]]

    def series(self, expr: str, begin: float, end: float, step: float) -> list[dict[str, Any]]:
        """Return the series that *expr* has from *begin* to *end*."""
        data = self._range(expr, begin, end, step=step)
        assert data["resultType"] == "matrix", expr
        return data["result"]

    def _range(self, expr: str, begin: float, end: float, **more: Any) -> Any:
        asked = {"query": expr, "start": _nanoseconds(begin), "end": _nanoseconds(end), **more}
        return self.ask("loki/api/v1/query_range", **asked)["data"]

    def values(self, label: str) -> set[str]:
        """Return the values of a stream's label, as a variable of a dashboard gets them."""
        return set(self.ask(f"loki/api/v1/label/{label}/values")["data"])

    def duplicates(self) -> int:
        """Return how many records were left out because their stream had one with the same time and line."""
        return int(self.ask("duplicates"))

    def alerts(self, conditions: Conditions, begin: float, end: float) -> set[tuple[str, str]]:
        """Return (service, alert) of what the ruler's rules make fire from *begin* to *end*."""
        fired = set()
        for alert in LOKI_ALERTS:
            stays = conditions.windows.shorter(alert.stays) if alert.stays else 0.0
            for each in self.series(alert.expr(conditions), begin, end, STEP_SECONDS):
                if _longest([float(time) for time, _ in each["values"]]) >= stays:
                    fired.add((each["metric"]["service_name"], alert.name))
        return fired

    def close(self) -> None:
        self._process.terminate()
        self._process.wait()
        self._log.close()


def _nanoseconds(seconds: float) -> int:
    return round(seconds * 1e9)


def _longest(times: list[float]) -> float:
    """Return for how long evaluations in a row had a result."""
    longest, begun = 0.0, times[0]
    for before, time in zip([times[0], *times], times, strict=False):
        if time - before > 1.5 * STEP_SECONDS:
            begun = time
        longest = max(longest, time - begun)
    return longest


if __name__ == "__main__":
    sys.stdout.write(f"{built()}\n")
