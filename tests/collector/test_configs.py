"""Every configuration is one that the collector takes, and starts with, without a word of warning."""

from __future__ import annotations

import re
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from collector.build import BUILDER, CONFIGS, MANIFEST
from collector.running import Collector

COMBINATIONS = {
    "gateway": ("gateway.yaml",),
    "agent": ("agent.yaml",),
    "scale-out gateway": ("gateway.yaml", "scale-out-gateway.yaml"),
    "scale-out agent": ("agent.yaml", "scale-out-agent.yaml"),
}
NEEDS_A_BROKER = ("scale-out gateway", "scale-out agent")  # that nobody answers is worth a warning


@pytest.mark.parametrize("which", COMBINATIONS)
def test_a_configuration_is_valid(which: str, new_collector: Callable[..., Collector]) -> None:
    done = new_collector("collector", *COMBINATIONS[which]).validate()
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_what_is_wrong_is_not_valid(new_collector: Callable[..., Collector], tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text((CONFIGS / "agent.yaml").read_text().replace("start_at:", "start_where:"))
    done = new_collector("collector", str(wrong)).validate()
    assert done.returncode != 0
    assert "start_where" in done.stderr


@pytest.mark.parametrize("which", COMBINATIONS)
def test_a_configuration_starts_and_ends_without_a_warning(
    which: str, new_collector: Callable[..., Collector], tmp_path: Path
) -> None:
    collector = new_collector(
        "collector", *COMBINATIONS[which], PAPYRA_FACTS=f"{tmp_path}/none", KAFKA="127.0.0.1:1"
    )
    collector.start()
    assert collector.stop() in {0, -signal.SIGTERM}  # it is ready a moment before it listens to signals
    allowed = ("no files match", "kafka", "127.0.0.1:1") if which in NEEDS_A_BROKER else ("no files match",)
    complaints = [line for line in collector.complaints() if not any(word in line for word in allowed)]
    assert complaints == []
    assert "deprecated" not in collector.log.read_text()


def test_the_manifest_has_what_the_configurations_use_and_nothing_else(program: Path) -> None:
    printed = subprocess.run([program, "components"], capture_output=True, text=True, check=True).stdout
    built = {
        (kind, component["name"])
        for kind, components in yaml.safe_load(printed).items()
        if kind in {"receivers", "processors", "exporters", "extensions"}
        for component in components
    }
    used = {
        (kind, name.partition("/")[0])
        for file in CONFIGS.glob("*.yaml")
        if file != MANIFEST
        for kind, components in yaml.safe_load(file.read_text()).items()
        if kind != "service"
        for name in components
    }
    assert built == used


def test_one_version_is_named_everywhere() -> None:
    _, _, version = BUILDER.partition("@v")
    manifest = yaml.safe_load(MANIFEST.read_text())
    assert manifest["dist"]["version"] == version
    assert f"builder@v{version}" in MANIFEST.read_text()
    images = {
        image
        for file in CONFIGS.rglob("*.yaml")
        for image in re.findall(r"opentelemetry-collector-contrib:(\S+)", file.read_text())
    }
    assert images == {version}
