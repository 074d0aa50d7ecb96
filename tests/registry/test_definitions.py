"""The registry is well-formed, says what the code says, and is what the reference page shows."""

from __future__ import annotations

import json
import os
import re
from importlib.util import find_spec
from pathlib import Path

import jsonschema
import pytest

from papyra_otel import FactKind, semconv
from papyra_otel.reports import ANOMALY_SEVERITIES
from registry.definitions import BORROWED, FILES, FOLDER, documents, registry
from registry.reference import PAGE, page

SCHEMA = json.loads((Path(__file__).parent / "definition.schema.json").read_text("utf-8"))
CONSTANTS = {
    value: name for name, value in vars(semconv).items() if name.isupper() and isinstance(value, str)
}
NO_NAMES = {semconv.SCOPE_NAME, semconv.SCHEMA_URL, semconv.OTHER}
SPANS = registry().spans.values()
SIGNALS = [*registry().events.values(), *registry().metrics.values()]
NAMES = {*registry().attributes, *(signal.name for signal in SIGNALS)}


@pytest.mark.parametrize("name", FILES)
def test_a_file_keeps_to_the_part_of_the_format_that_we_use(name):
    jsonschema.validate(documents()[name], SCHEMA, jsonschema.Draft202012Validator)


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_valid_for_weaver(name):
    """By weaver's own schema, where a checkout of it is at hand (docs/decisions/0055)."""
    folder = os.environ.get("PAPYRA_OTEL_WEAVER")
    if folder is None:
        pytest.skip("PAPYRA_OTEL_WEAVER does not name a checkout of weaver")
    schema = json.loads(Path(folder, "schemas", "semconv.schema.v2.json").read_text("utf-8"))
    jsonschema.validate(documents()[name], schema, jsonschema.Draft202012Validator)


def test_every_constant_is_in_the_registry():
    assert sorted(CONSTANTS.keys() - NO_NAMES - NAMES) == []


def test_everything_in_the_registry_is_a_constant():
    assert sorted(NAMES - CONSTANTS.keys()) == []


def test_every_attribute_is_used_or_belongs_to_somebody_elses_event():
    used = {key for signal in [*SIGNALS, *SPANS] for key in signal.attributes}
    only_stored = {
        semconv.EVENT_BODY,
        semconv.SEGMENT_REPLACES,
        semconv.SEGMENT_REWRITTEN,
        semconv.SEGMENT_RESOURCE,
    }
    assert registry().attributes.keys() - used == only_stored


def test_what_is_borrowed_is_what_opentelemetry_defines():
    if find_spec("opentelemetry.semconv._incubating") is None:
        pytest.skip("opentelemetry.semconv._incubating has moved")
    from opentelemetry.semconv._incubating.attributes import (
        host_attributes,
        log_attributes,
        messaging_attributes,
        process_attributes,
    )
    from opentelemetry.semconv.attributes import error_attributes, exception_attributes

    modules = (
        messaging_attributes,
        host_attributes,
        log_attributes,
        process_attributes,
        error_attributes,
        exception_attributes,
    )
    assert {value for module in modules for value in vars(module).values() if isinstance(value, str)} >= set(
        BORROWED
    )


def test_the_dependency_is_the_version_that_the_scope_names():
    manifest = (FOLDER / "manifest.yaml").read_text("utf-8")
    version = semconv.SCHEMA_URL.rpartition("/")[2]
    assert f"schema_url: {semconv.SCHEMA_URL}\n" in manifest
    assert f"/v{version}.zip[model]" in manifest


def test_the_values_that_the_code_knows_are_those_of_the_registry():
    members = {key: each.members for key, each in registry().attributes.items() if each.members}
    assert members[semconv.ANOMALY_TYPE] == list(ANOMALY_SEVERITIES)
    assert members[semconv.FACT_KIND] == [kind.value for kind in FactKind]


def test_addresses_names_and_ids_are_on_no_metric():
    unbounded = {semconv.ACTOR_ADDRESS, semconv.ACTOR_NAME, semconv.ACTOR_PARENT, semconv.LOG_RECORD_UID}
    assert [m.name for m in registry().metrics.values() if unbounded & m.attributes.keys()] == []


def test_the_reference_page_is_what_the_registry_says():
    assert PAGE.read_text("utf-8") == page(registry()), "run: python tests/registry/reference.py"


def test_the_prose_names_the_same_values():
    """docs/facts.md explains; where it lists the values of an attribute, it lists all of them."""
    text = (PAGE.parents[1] / "facts.md").read_text("utf-8")
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        attribute = registry().attributes.get(cells[0].strip("`"))
        if attribute is not None and attribute.members and len(cells) == 3 and "see [" not in cells[2]:
            told = set(re.findall(r"`([a-z_]+)`", cells[2]))
            assert told in (set(attribute.members), {"alive"}), f"{attribute.key} has others in docs/facts.md"
