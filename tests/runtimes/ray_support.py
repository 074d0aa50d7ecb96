"""What the tests of the ray adapter share: a small cluster that knows nothing of us."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PROGRAMS = Path(__file__).parent / "programs"
ENVIRONMENT = {
    **{name: text for name, text in os.environ.items() if not name.startswith(("OTEL_", "RAY_"))},
    "OTEL_TRACES_EXPORTER": "none",
    "OTEL_METRICS_EXPORTER": "none",
    "OTEL_LOGS_EXPORTER": "none",
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_raylet_start_wait_time_s": "180",
    "PYTHONWARNINGS": "ignore",
}


@contextmanager
def running_cluster(folder: Path) -> Iterator[str]:
    """Yield the address of a cluster whose processes were started without anything of ours, in *folder*."""
    command = [sys.executable, str(PROGRAMS / "ray_cluster.py")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": (folder / "stderr").open("w")}
    holder = subprocess.Popen(command, env=ENVIRONMENT, cwd=folder, text=True, **pipes)
    address = holder.stdout.readline().strip()
    assert address, (folder / "stderr").read_text()
    yield address
    holder.stdin.close()
    ended = holder.wait(90)
    holder.stdout.close()
    pipes["stderr"].close()
    assert ended == 0, (folder / "stderr").read_text()
    assert sorted(path.name for path in folder.iterdir()) == ["stderr"], "facts belong to the driver's folder"
