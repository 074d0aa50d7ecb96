"""The bad day: processes with one incident each, all at once, in front of a real Prometheus with shortened rules.

Every process trades quietly at first. Its incident begins, lasts until the alerts that belong to it fire, and ends.
Prometheus remembers in ``ALERTS`` all that ever fired.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from collector.build import ASKED, collector, find_go
from collector.running import Collector
from conftest import missing
from grafana.logs import LogStore
from grafana.programs import program
from papyra_otel.grafana.files import prometheus_rules
from papyra_otel.grafana.rules import Conditions
from papyra_otel.grafana.thresholds import Thresholds, Windows
from redis_servers.processes import free_port
from redis_servers.server import Server

PATIENCE_SECONDS = 60.0
SHOP = Path(__file__).with_name("shop.py")
JOB = "bad-day"

LIMITS = Thresholds(storage_bytes=14_000_000)

# What a process does has to make these fire; *also* may, and must go away too. A write that the full disk cut short
# leaves a torn line, which a scan rightly tells.
EXPECTED: Mapping[str, set[str]] = {
    "healthy": set(),
    "crash_loop": {"PapyraRestartStorm", "PapyraRestartLimitExceeded", "PapyraStartFailures"},
    "storm": {"PapyraDeadLetterBurst", "PapyraDeadLettersSustained", "PapyraMessagesLost"},
    "disk_full": {"PapyraAppendErrors", "PapyraDurabilityLag", "PapyraQueueSaturated", "PapyraFactsDropped"},
    "damaged": {"PapyraAnomalyFound", "PapyraLogUntidy", "PapyraAnomaliesUnresolved"},
    "redis_outage": {"PapyraAppendErrors"},
    "collector_outage": {"PapyraDeliveryLag"},
    "neglected": {"PapyraHandlerStuck", "PapyraAuditStale", "PapyraScanStale", "PapyraRegistryUnhealthy"},
    "growing": {"PapyraStorageFillingUp"},
    "impatient": {"PapyraRegistryUnhealthy", "PapyraDeadLettersSustained"},
    "vanished": {"PapyraTelemetryAbsent"},
}
# What the rules on facts have to say.
EXPECTED_OF_FACTS: Mapping[str, set[str]] = {
    "redis_outage": {
        "PapyraLogRisk"
    },  # that server keeps everything in memory, and is asked once, at the start
    "impatient": {"PapyraAskTimeouts", "PapyraAuditUnhealthy"},
}
ALSO: Mapping[str, set[str]] = {"disk_full": {"PapyraLogUntidy", "PapyraAnomaliesUnresolved"}}
# Their facts are delivered from their logs, all of them; those of the others are forwarded live.
WITH_AN_OUTBOX = ("storm", "impatient", "collector_outage")
INCIDENT = {"redis_outage": "elsewhere", "collector_outage": "elsewhere", "vanished": "elsewhere"}


def shorter(seconds: float) -> float:
    """Map half a minute to 1.5 s, five minutes to 3.4 s, and six hours and more to 15 s."""
    return round(min(1.5 * (seconds / 30) ** 0.35, 15.0), 1)


CONDITIONS = Conditions(limits=LIMITS, windows=Windows(shorter))


class Prometheus:
    """A server on a port of its own, with the rules for shortened days."""

    def __init__(self, folder: Path, targets: Mapping[str, tuple[str, int]]) -> None:
        self.port = free_port()
        rules = yaml.safe_load(prometheus_rules(CONDITIONS))
        for each in rules["groups"]:
            del each["interval"]
        (folder / "rules.yaml").write_text(yaml.safe_dump(rules, sort_keys=False))
        jobs: dict[str, list[dict[str, Any]]] = {}
        for name, (job, port) in targets.items():
            jobs.setdefault(job, []).append({"targets": [f"127.0.0.1:{port}"], "labels": {"instance": name}})
        every = {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "500ms"}
        config = {
            "global": every,
            "rule_files": ["rules.yaml"],
            "scrape_configs": [{"job_name": job, "static_configs": configs} for job, configs in jobs.items()],
        }
        (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
        command = [
            program("prometheus"),
            f"--config.file={folder / 'prometheus.yaml'}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{self.port}",
            "--web.cors.origin=.*",
        ]
        self._log = (folder / "prometheus.log").open("w")
        self._process = subprocess.Popen(command, stdout=self._log, stderr=self._log)

    def ask(self, path: str, **parameters: Any) -> Any:
        """Return the answer's data."""
        url = f"http://127.0.0.1:{self.port}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(url, timeout=20) as answer:
            return json.load(answer)["data"]

    def query(self, expr: str) -> list[dict[str, Any]]:
        """Return the series that *expr* has now."""
        return self.ask("query", query=expr)["result"]

    def query_range(self, expr: str, begin: float, end: float, step: float) -> list[dict[str, Any]]:
        """Return the series that *expr* has from *begin* to *end*."""
        return self.ask("query_range", query=expr, start=begin, end=end, step=step)["result"]

    def alerts(self, expr: str) -> set[tuple[str, str]]:
        """Return (process, alert) of what *expr*, over ``ALERTS``, finds. The absent job stands for its process."""
        found = (each["metric"] for each in self.query(expr))
        return {(labels.get("instance", labels["job"]), labels["alertname"]) for labels in found}

    def close(self) -> None:
        self._process.terminate()
        self._process.wait()
        self._log.close()


class Process:
    """One shop, and its log's address."""

    def __init__(self, name: str, port: int, log: str, environ: Mapping[str, str]) -> None:
        self.name, self.port, self.log, self._environ = name, port, log, environ
        self._start()

    def _start(self) -> None:
        plain = {name: text for name, text in os.environ.items() if not name.startswith("OTEL_")}
        incident = INCIDENT.get(self.name, self.name)
        self._process = subprocess.Popen(
            [sys.executable, str(SHOP), incident, str(self.port), self.log],
            env={**plain, "OTEL_PYTHON_PAPYRA_SYSTEM": "", **self._environ},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,  # so that what is not read yet can be waited for
        )

    def read(self, seconds: float = PATIENCE_SECONDS) -> str:
        """Return the next line that it says."""
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], seconds)
        line = self._process.stdout.readline().decode() if ready else ""
        if not line:
            pytest.fail(f"{self.name} says nothing; exit code {self._process.poll()}")
        return line.strip()

    def tell(self, command: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{command}\n".encode())

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        self._let_go()

    def restart(self, log: str) -> None:
        self.log = log
        self._start()
        assert self.read() == "ready"

    def close(self) -> None:
        if self._process.poll() is None:
            self.kill()
        self._let_go()

    def _let_go(self) -> None:
        for stream in (self._process.stdin, self._process.stdout):
            with suppress(OSError):
                stream.close()


def wait_until(what: str, holds: Callable[[], bool], seconds: float = PATIENCE_SECONDS) -> None:
    """Return when *holds*; fail when it does not for so long."""
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            pytest.fail(f"after {seconds:g} s still not: {what}")
        time.sleep(0.2)


@dataclass
class Day:
    """What is left of the day: Prometheus and the facts, still there, and when it was."""

    prometheus: Prometheus
    facts: LogStore
    processes: Mapping[str, Process]
    begin: float = 0.0
    end: float = 0.0
    early: set[tuple[str, str]] = field(default_factory=set)
    fired: set[tuple[str, str]] = field(default_factory=set)
    unresolved: set[tuple[str, str]] = field(default_factory=set)
    collector_away: tuple[float, float] = (0.0, 0.0)
    fired_of_facts: set[tuple[str, str]] = field(default_factory=set)
    unresolved_of_facts: set[tuple[str, str]] = field(default_factory=set)

    def facts_firing(self, begin: float, end: float) -> set[tuple[str, str]]:
        """Return (process, alert) of the ruler's rules."""
        return self.facts.alerts(CONDITIONS, begin, end)


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A file system of 16 MiB with nothing on it."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=16m,mode=700", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode != 0:
        missing("mounting a small file system needs root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def _processes(
    folder: Path, redis: Server, gateways: Mapping[str, Collector], disk: Path
) -> dict[str, Process]:
    usual = {"OTEL_PYTHON_PAPYRA_SCAN_INTERVAL": "2s", "OTEL_PYTHON_PAPYRA_AUDIT_INTERVAL": "1s"}
    special = {
        "redis_outage": {"OTEL_PYTHON_PAPYRA_SPILL": str(folder / "spill")},
        "neglected": {
            "OTEL_PYTHON_PAPYRA_AUDIT_INTERVAL": "1h",
            "OTEL_PYTHON_PAPYRA_SCAN_INTERVAL": "off",
        },
    }
    logs = {"redis_outage": redis.url, "disk_full": (disk / "log").as_uri()}
    made = {}
    for name in EXPECTED:
        log = logs.get(name, (folder / name).as_uri())
        environ = {
            **usual,
            **special.get(name, {}),
            **gateways.get(name, gateways["usual"]).otlp("http/protobuf"),
            "OTEL_SERVICE_NAME": name,
            "OTEL_PYTHON_PAPYRA_FORWARD": "outbox" if name in WITH_AN_OUTBOX else "live",
        }
        made[name] = Process(name, free_port(), log, environ)
    return made


class _Faults:
    """What befalls a process from outside."""

    def __init__(self, folder: Path, redis: Server, gateway: Collector) -> None:
        self._folder, self._redis, self._gateway = folder, redis, gateway
        self.collector_away = (0.0, 0.0)

    def begin(self, process: Process) -> None:
        if process.name == "vanished":
            process.kill()
            return
        if process.name == "redis_outage":
            self._redis.stop()
        elif process.name == "collector_outage":
            self._gateway.kill()
            self.collector_away = (time.time(), 0.0)
        process.tell("begin")

    def end(self, process: Process) -> None:
        if process.name == "vanished":
            process.restart((self._folder / "again").as_uri())
            return
        if process.name == "redis_outage":
            self._redis.start()
        elif process.name == "collector_outage":
            self.collector_away = (self.collector_away[0], time.time())
            self._gateway.start()
        process.tell("end")


@contextmanager
def _gateways(folder: Path, facts: LogStore) -> Iterator[dict[str, Collector]]:
    """Two collectors with the configuration that we ship: one for the process that has to do without, for a while."""
    go = find_go()
    if go is None:
        missing(ASKED)
    with ExitStack() as stack:
        made = {}
        for name in ("usual", "collector_outage"):
            made[name] = Collector(
                collector(str(go)), folder / f"gateway-{name}", "gateway.yaml", LOKI_OTLP=facts.otlp
            )
            stack.callback(made[name].close)
            made[name].start()
        yield made


@contextmanager
def bad_day(folder: Path) -> Iterator[Day]:
    """Let the day pass; Prometheus, the facts and the processes are there until the end of the block."""
    with ExitStack() as stack:
        disk = stack.enter_context(small_disk(folder / "disk"))
        redis = Server()
        stack.callback(redis.close)
        facts = LogStore(folder)
        stack.callback(facts.close)
        gateways = stack.enter_context(_gateways(folder, facts))
        faults = _Faults(folder, redis, gateways["collector_outage"])
        begin = time.time()
        processes = _processes(folder, redis, gateways, disk)
        for process in processes.values():
            stack.callback(process.close)
        jobs = {name: "vanished" if name == "vanished" else JOB for name in processes}
        prometheus = Prometheus(folder, {name: (jobs[name], each.port) for name, each in processes.items()})
        stack.callback(prometheus.close)
        day = Day(prometheus, facts, processes, begin=begin)
        _pass(day, faults)
        yield day


def _pass(day: Day, faults: _Faults) -> None:
    prometheus, processes = day.prometheus, day.processes
    for process in processes.values():
        assert process.read() == "ready"
    wait_until("every process is scraped", lambda: _count(prometheus, "sum(up)") == len(processes))
    time.sleep(shorter(600))  # a quiet time: what fires in it fires for nothing
    day.early = prometheus.alerts('last_over_time(ALERTS{alertstate="firing"}[10m])')
    for process in processes.values():
        faults.begin(process)
    _let_fire(day, faults)
    faults.end(processes["healthy"])
    with suppress(pytest.fail.Exception):
        wait_until("all alerts resolve", lambda: not _firing(day), 45)
    day.fired = prometheus.alerts('last_over_time(ALERTS{alertstate="firing"}[10m])')
    day.unresolved = prometheus.alerts('ALERTS{alertstate="firing"}')
    day.end = time.time()
    day.collector_away = faults.collector_away
    day.fired_of_facts = day.facts_firing(day.begin, day.end)
    day.unresolved_of_facts = day.facts_firing(day.end, day.end)


def _firing(day: Day) -> bool:
    now = time.time()
    return bool(day.prometheus.query('ALERTS{alertstate="firing"}') or day.facts_firing(now, now))


def _let_fire(day: Day, faults: _Faults) -> None:
    """End each incident when all that it has to make fire has fired; after some patience the tests say what did not."""
    waiting = {name for name, alerts in EXPECTED.items() if alerts}
    deadline = time.monotonic() + PATIENCE_SECONDS
    while waiting and time.monotonic() < deadline:
        fired = day.prometheus.alerts('last_over_time(ALERTS{alertstate="firing"}[10m])')
        fired |= day.facts_firing(day.begin, time.time())
        for name in [*waiting]:
            wanted = EXPECTED[name] | EXPECTED_OF_FACTS.get(name, set())
            if {(name, alert) for alert in wanted} <= fired:
                waiting.discard(name)
                faults.end(day.processes[name])
        time.sleep(0.2)


def _count(prometheus: Prometheus, expr: str) -> float:
    found = prometheus.query(expr)
    return float(found[0]["value"][1]) if found else 0.0
