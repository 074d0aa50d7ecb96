"""An adapter of another distribution is found by its entry point."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

DOCUMENT = Path(__file__).parents[2] / "docs" / "adding-a-runtime.md"
PROGRAM = """
from papyra_otel.testing import capture_facts

with capture_facts(runtimes={runtimes}) as captured:
    import tiny_actors

    class Worker(tiny_actors.Actor):
        def receive(self, message):
            pass

    worker = Worker("w")
    worker.tell("hello")
    worker.stop()
    print([fact.name for fact in captured.facts])
"""


@pytest.mark.parametrize("runtimes", ["None", "['tiny']"])
def test_an_adapter_of_another_distribution_is_found(tmp_path, runtimes):
    for block in re.finditer(
        r"^```python title=(\S+)\n(.*?)^```", DOCUMENT.read_text(), re.MULTILINE | re.DOTALL
    ):
        (tmp_path / block[1]).write_text(block[2])
    metadata = tmp_path / "papyra_tiny-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: papyra-tiny\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[papyra_otel.runtime]\ntiny = papyra_tiny:TinyAdapter\n")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(runtimes=runtimes)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
    )
    told = ["papyra.actor.started", "papyra.message.processed", "papyra.actor.stopped"]
    assert (done.stdout, done.stderr) == (f"{told}\n", "")
