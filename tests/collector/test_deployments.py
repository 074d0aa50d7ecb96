"""The compose file and the manifests for Kubernetes hang together: files, ports, volumes, images, variables."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from collector.build import CONFIGS
from papyra_otel.config import Settings

COMPOSE = CONFIGS / "stack" / "compose.yaml"
MANIFESTS = sorted((CONFIGS / "kubernetes").glob("*.yaml"))
README = (CONFIGS / "README.md").read_text("utf-8")
SERVICES: dict[str, Any] = yaml.safe_load(COMPOSE.read_text("utf-8"))["services"]
COLLECTOR_VARIABLES = {
    name
    for file in CONFIGS.glob("*.yaml")
    for name in re.findall(r"\$\{env:([A-Z_]+)", file.read_text("utf-8"))
    if name != "NAME"
}


def documents(path: Path) -> list[dict[str, Any]]:
    return [each for each in yaml.safe_load_all(path.read_text("utf-8")) if each]


def pods() -> list[tuple[str, dict[str, Any]]]:
    """Return every pod's template: whose it is, and the object around it."""
    return [
        (each["metadata"]["name"], each["spec"])
        for path in MANIFESTS
        for each in documents(path)
        if "template" in each["spec"]
    ]


def containers(pod: dict[str, Any]) -> list[dict[str, Any]]:
    spec = pod["template"]["spec"]
    return [*spec.get("initContainers", []), *spec["containers"]]


def test_every_variable_of_a_configuration_is_in_the_readme() -> None:
    assert {name for name in COLLECTOR_VARIABLES if f"| `{name}` |" not in README} == set()


def test_the_readme_names_every_file_and_no_other() -> None:
    files = {
        str(path.relative_to(CONFIGS))
        for path in CONFIGS.rglob("*")
        if path.is_file() and path.name != "README.md" and "_collector" not in path.parts
    }
    assert set(re.findall(r"(?m)^\| `([^`]+\.\w+|[^`]+Dockerfile)` \|", README)) == files


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_mounts_what_is_there_from_an_image_that_is_pinned(service: str) -> None:
    declared = yaml.safe_load(COMPOSE.read_text("utf-8"))["volumes"]
    told = SERVICES[service]
    assert ("build" in told) != bool(re.search(r":v?\d+\.\d+", told.get("image", "")))
    for volume in told.get("volumes", []):
        source, inside, *_ = volume.split(":")
        assert inside.startswith("/")
        assert source in declared if not source.startswith(".") else (COMPOSE.parent / source).exists(), (
            source
        )
    assert set(told.get("depends_on", [])) <= set(SERVICES)
    assert all(port.startswith("127.0.0.1:") for port in told.get("ports", []))


def test_what_is_built_is_there() -> None:
    build = SERVICES["app"]["build"]
    root = COMPOSE.parent / build["context"]
    dockerfile = (root / build["dockerfile"]).read_text("utf-8")
    copied = re.findall(r"(?m)^COPY (\S+) ", dockerfile)
    assert copied
    assert all((root / path).exists() for path in copied)


def test_every_file_given_to_a_service_is_where_its_command_looks() -> None:
    for service in ("gateway", "prometheus", "alertmanager"):
        (config,) = [word.partition("=")[2] for word in SERVICES[service]["command"] if "config" in word]
        assert config in {volume.split(":")[1] for volume in SERVICES[service]["volumes"]}


def test_prometheus_scrapes_the_gateway_and_keeps_its_labels() -> None:
    told = yaml.safe_load((CONFIGS / "stack" / "prometheus.yaml").read_text("utf-8"))
    (job,) = told["scrape_configs"]
    assert job["honor_labels"] is True
    port = job["static_configs"][0]["targets"][0].removeprefix("gateway:")
    assert f"PROMETHEUS_SCRAPE:-0.0.0.0:{port}" in (CONFIGS / "gateway.yaml").read_text("utf-8")
    inside = [volume.split(":")[1] for volume in SERVICES["prometheus"]["volumes"]]
    assert {f"/etc/prometheus/{name}" for name in told["rule_files"]} <= set(inside)


def test_settings_that_are_given_are_settings_that_there_are() -> None:
    given = {name: str(value) for name, value in SERVICES["app"]["environment"].items()}
    Settings.load(
        environ={name: value for name, value in given.items() if name.startswith("OTEL_PYTHON_PAPYRA_")}
    )
    for _, pod in pods():
        for container in containers(pod):
            variables = {each["name"]: each["value"] for each in container.get("env", [])}
            assert all(isinstance(value, str) for value in variables.values())
            ours = {
                name: value for name, value in variables.items() if name.startswith("OTEL_PYTHON_PAPYRA_")
            }
            Settings.load(environ=ours)
            if "opentelemetry-collector" in container["image"]:
                assert set(variables) <= COLLECTOR_VARIABLES


@pytest.mark.parametrize(("name", "pod"), pods())
def test_a_pod_mounts_only_its_volumes_is_pinned_and_may_do_little(name: str, pod: dict[str, Any]) -> None:
    volumes = {each["name"] for each in pod["template"]["spec"].get("volumes", [])}
    volumes |= {each["metadata"]["name"] for each in pod.get("volumeClaimTemplates", [])}
    assert pod["template"]["spec"]["securityContext"]["runAsNonRoot"] is True
    assert pod["selector"]["matchLabels"] == pod["template"]["metadata"]["labels"]
    for container in containers(pod):
        assert re.search(r":\d+\.\d+\.\d+$", container["image"])
        assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        }
        ports = {port["name"]: port["containerPort"] for port in container.get("ports", [])}
        for probe in ("readinessProbe", "livenessProbe"):
            if probe in container:
                assert ports[container[probe]["httpGet"]["port"]] == 13133
        for argument in container.get("args", []):
            assert (CONFIGS / Path(argument).name).exists()


def test_the_agent_reads_where_the_program_writes_and_doctor_sees_the_same_settings() -> None:
    (sidecar,) = [pod for name, pod in pods() if name == "shop"]
    doctor, agent, shop = containers(sidecar)
    assert doctor["command"] == ["papyra-otel", "doctor"]
    assert doctor["env"] == shop["env"]
    assert doctor["image"] == shop["image"]
    recorded = {each["name"]: each["value"] for each in shop["env"]}["OTEL_PYTHON_PAPYRA_LOG"]
    read = {each["name"]: each["value"] for each in agent["env"]}["PAPYRA_FACTS"]
    assert recorded == f"file://{read}"
    assert agent["restartPolicy"] == "Always"


def test_the_agents_gateway_is_the_service_beside_it() -> None:
    (service,) = [each for path in MANIFESTS for each in documents(path) if each["kind"] == "Service"]
    ports = {port["port"] for port in service["spec"]["ports"]}
    (sidecar,) = [pod for name, pod in pods() if name == "shop"]
    gateway = {each["name"]: each["value"] for each in containers(sidecar)[1]["env"]}["GATEWAY"]
    host, _, port = gateway.partition(":")
    assert host.split(".")[0] == service["metadata"]["name"]
    assert int(port) in ports
