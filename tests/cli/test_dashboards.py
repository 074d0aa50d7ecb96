"""``papyra-otel dashboards``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from cli.support import Done
from papyra_otel.grafana import files

Run = Callable[..., Done]


def test_export_writes_every_file_and_replaces_only_those(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "grafana"
    for _ in range(2):
        done = run("dashboards", "export", str(folder))
        assert (done.code, done.err) == (0, "")
        assert "dashboards/papyra-overview.json" in done.out
        (folder / "dashboards" / "ours.json").write_text("{}")
        (folder / "dashboards" / "papyra-actor.json").write_text("old")
        run("dashboards", "export", str(folder))
    written = {
        str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()
    }
    assert written == {**files(), "dashboards/ours.json": "{}"}


def test_export_says_as_json_what_it_wrote(run: Run, tmp_path: Path) -> None:
    done = run("dashboards", "export", str(tmp_path), "--json", "--runbooks", "https://wiki/papyra")
    told = json.loads(done.out)
    assert (told["folder"], told["files"]) == (str(tmp_path), sorted(files()))
    assert '"https://wiki/papyra/anomaly-found.md"' in (tmp_path / "alerts/prometheus-rules.yaml").read_text()


def test_a_folder_that_cannot_be_written_is_told_in_one_line(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = run("dashboards", "export", str(tmp_path / "file"))
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("papyra-otel: error: ")
    assert done.err.count("\n") == 1
