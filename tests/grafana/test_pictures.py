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
    """Return what Grafana would have got for the numbers of *panel*: a point a second."""
    found = []
    begin = day.begin + (day.end - day.begin) % 1  # so that the last point is the end, when all is well again
    for target in panel.get("targets", []):
        expr = asked(target["expr"], bare=False)
        if target["datasource"]["type"] == "prometheus":
            series = day.prometheus.query_range(expr, begin, day.end, 1)
            found += [
                {"legend": legend(target["legendFormat"], each["metric"]), "values": each["values"]}
                for each in series
            ]
        elif target["queryType"] == "instant":
            found += [
                {"legend": legend(target["legendFormat"], labels), "values": [[day.end, str(value)]]}
                for labels, value in day.facts.numbers(expr, day.end)
            ]
    return found


def lines(day: Day, panel: dict) -> list[dict]:
    """Return the lines of *panel*, newest first."""
    return [
        {"time": line.time / 1e9, "level": line.labels.get("severity_text", ""), "text": line.text}
        for target in panel.get("targets", [])
        if panel["type"] == "logs"
        for line in day.facts.lines(asked(target["expr"]), day.begin, day.end)
    ]


def marks(day: Day, board: dict) -> list[dict]:
    """Return what the annotations of *board* mark in every graph."""
    return [
        {"time": line.time / 1e9, "color": each["iconColor"]}
        for each in board["annotations"]["list"]
        if "expr" in each
        for line in day.facts.lines(asked(each["expr"]), day.begin, day.end)
    ]


def draw(folder: Path, picture: Path, height: int) -> None:
    """Let the browser open the page in *folder* and take a picture."""
    from PIL import Image  # only nox -s pictures has it

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
            "--disable-lcd-text",
            "--hide-scrollbars",
            "--force-device-scale-factor=1",
        ]
        taken = [f"--screenshot={picture}", f"--window-size=1470,{height}", "--virtual-time-budget=20000"]
        url = f"http://127.0.0.1:{server.server_address[1]}/index.html"
        passed([program("chromium"), *options, *taken, url], timeout=120)
        server.shutdown()
    with Image.open(picture) as full:
        drawn = full.convert("RGB")
    # A third of the size, for the repository's sake: the most frequent colours, and hues, stay as they are.
    colours = [colour for _, colour in sorted(drawn.getcolors(1 << 24), reverse=True)]
    hues = [colour for colour in colours if max(colour) - min(colour) > 80]
    colours = list(dict.fromkeys([*hues[:96], *colours]))[:256]
    palette = Image.new("P", (1, 1))
    palette.putpalette([part for colour in colours for part in colour])
    drawn.quantize(palette=palette, dither=Image.Dither.NONE).save(picture, optimize=True)


@pytest.mark.parametrize("name", sorted(BOARDS))
def test_a_dashboard_can_be_drawn(name, day, page, tmp_path):
    board = BOARDS[name]
    shutil.copytree(page, tmp_path / "page")
    shown = [panel for panel in board["panels"] if panel["type"] != "row"]
    found = {panel["id"]: results(day, panel) for panel in shown}
    told = {panel["id"]: lines(day, panel) for panel in shown}
    assert [panel["title"] for panel in shown if not found[panel["id"]] and not told[panel["id"]]] == []
    drawn = {"board": board, "results": found, "lines": told, "marks": marks(day, board)}
    height = 38 * max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in board["panels"]) + 30
    PICTURES.mkdir(exist_ok=True)
    for theme in THEMES:
        data = {**drawn, "theme": theme, "from": day.begin, "to": day.end}
        (tmp_path / "page/page.json").write_text(json.dumps(data))
        picture = PICTURES / f"{board['uid']}-{theme}.png"
        draw(tmp_path / "page", picture, height)
        assert 20_000 < picture.stat().st_size < 250_000, "nothing was drawn"
