"""Runs papyra's own tests on our backend, over each kind of log: ``python tests/upstream/run.py FOLDER``.

FOLDER holds papyra's repository. Its tests run against the papyra that is installed; see ``papyra_backends``.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from redis_servers.server import Server


def run(folder: Path, log: str, root: str) -> int:
    """Run the tests in a copy without papyra's own sources, and return pytest's status."""
    environment = os.environ | {
        "PAPYRA_OTEL_UPSTREAM_LOG": log,
        "PAPYRA_OTEL_UPSTREAM_ROOT": root,
        "REDIS_URL": log if log.startswith("redis:") else "redis://127.0.0.1:1",  # nobody is there: skipped
        "PYTHONPATH": str(Path(__file__).parent.resolve()),
    }
    sys.stderr.write(f"papyra's tests over {log}\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "papyra_backends", "-p", "no:xdist", "tests"]
    return subprocess.run(command, cwd=folder, env=environment, check=False).returncode


def main() -> int:
    """Run them over memory, files and a server; return how often they failed."""
    with tempfile.TemporaryDirectory() as root, closing(Server()) as server:
        copy = Path(root, "papyra")
        copy.mkdir()
        (copy / "tests").symlink_to(Path(sys.argv[1], "tests").resolve())
        (copy / "pytest.ini").write_text("[pytest]\n")
        return sum(run(copy, log, root) != 0 for log in ("memory", "file", server.url))


if __name__ == "__main__":
    sys.exit(main())
