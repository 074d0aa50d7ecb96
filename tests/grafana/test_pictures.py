"""Pictures of the dashboards: the committed JSON, the data of the bad day, Grafana's own components, a real browser."""

from __future__ import annotations

import functools
import http.server
import json
import shutil
import threading
from pathlib import Path

import pytest

from grafana.asked import BOARDS, asked
from grafana.programs import npm_installed, passed, program
from grafana.scenario.day import Day

pytestmark = [pytest.mark.pictures, pytest.mark.timeout(900)]

HERE = Path(__file__).parent
PICTURES = HERE.parents[1] / "docs/pictures"
THEMES = ("light", "dark")


@pytest.fixture(scope="module")
def page() -> Path:
    """The built page, ready to be given data."""
    folder = npm_installed(HERE / "render")
    passed([program("npm"), "run", "build"], cwd=folder, timeout=400)
    return folder / "dist"


def legend(pattern: str, metric: dict[str, str]) -> str:
    if pattern == "__auto":
        return "value"
    for name, value in metric.items():
        pattern = pattern.replace(f"{{{{{name}}}}}", value)
    return pattern.partition("{{")[0].strip()


def results(day: Day, panel: dict) -> list[dict]:
    """Return what Grafana would have got for *panel*: a point a second."""
    found = []
    for target in panel.get("targets", []):
        if target["datasource"]["type"] == "prometheus":
            series = day.prometheus.query_range(asked(target["expr"]), day.begin, day.end, 1)
            found += [
                {"legend": legend(target["legendFormat"], each["metric"]), "values": each["values"]}
                for each in series
            ]
    return found


def draw(folder: Path, picture: Path, height: int) -> None:
    """Let the browser open the page in *folder* and take a picture."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            """Quiet."""

    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        options = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            "--force-device-scale-factor=1",
        ]
        taken = [f"--screenshot={picture}", f"--window-size=1470,{height}", "--virtual-time-budget=20000"]
        url = f"http://127.0.0.1:{server.server_address[1]}/index.html"
        passed([program("chromium"), *options, *taken, url], timeout=120)
        server.shutdown()


@pytest.mark.parametrize("name", sorted(BOARDS))
def test_a_dashboard_can_be_drawn(name, day, page, tmp_path):
    board = BOARDS[name]
    shutil.copytree(page, tmp_path / "page")
    found = {panel["id"]: results(day, panel) for panel in board["panels"]}
    height = 38 * max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in board["panels"]) + 30
    PICTURES.mkdir(exist_ok=True)
    for theme in THEMES:
        data = {"board": board, "results": found, "theme": theme, "from": day.begin, "to": day.end}
        (tmp_path / "page/page.json").write_text(json.dumps(data))
        picture = PICTURES / f"{board['uid']}-{theme}.png"
        draw(tmp_path / "page", picture, height)
        assert picture.stat().st_size > 50_000, "nothing was drawn"
