"""A real Prometheus on loopback that scrapes one program."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

PROGRAM = shutil.which("prometheus")
_SETTINGS = """\
global: { scrape_interval: 200ms, scrape_timeout: 200ms }
scrape_configs:
  - job_name: papyra
    static_configs: [{ targets: ["127.0.0.1:%d"] }]
"""


class Prometheus:
    """Asks it. Every answer is that of the API's ``data``."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"

    def ask(self, path: str, **parameters: str) -> Any:
        """Return what it answers; raises URLError while it is not there."""
        with urllib.request.urlopen(
            f"{self.url}/api/v1/{path}?{urlencode(parameters)}", timeout=20
        ) as answer:
            return json.load(answer)["data"]


def eventually(condition: Any, seconds: float = 40.0) -> Any:
    """Return what *condition* does as soon as that is something; what cannot be asked yet is nothing."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            if found := condition():
                return found
        except (urllib.error.URLError, ConnectionError):
            pass
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.05)


@contextmanager
def scraping(port: int, folder: Path) -> Iterator[Prometheus]:
    """Run a Prometheus that scrapes the program at *port*."""
    assert PROGRAM is not None
    settings = folder / "prometheus.yml"
    settings.write_text(_SETTINGS % port, "utf-8")
    with socket.create_server(("127.0.0.1", 0)) as free:
        own_port = free.getsockname()[1]
    arguments = [
        PROGRAM,
        f"--config.file={settings}",
        f"--storage.tsdb.path={folder}/prometheus",
        f"--web.listen-address=127.0.0.1:{own_port}",
        "--log.level=error",
    ]
    with subprocess.Popen(
        arguments, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            prometheus = Prometheus(own_port)
            eventually(lambda: prometheus.ask("targets")["activeTargets"])
            yield prometheus
        finally:
            process.kill()
