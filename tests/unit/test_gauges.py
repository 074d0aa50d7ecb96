"""What systems show now, joined and under other names, as metrics need it."""

from __future__ import annotations

from papyra_otel.pipeline.gauges import GAUGES, RuntimeGauges

ONE = RuntimeGauges(
    system="shop",
    mailbox_depths={"a": [1, 5], "b": [2]},
    longest_active_seconds={"a": 0.5, "b": 3.0},
    blocked_senders={"a": 1},
    registry_entries={"ok": 2, "dead": 1},
)
OTHER = RuntimeGauges(
    system="shop",
    mailbox_depths={"a": [7], "c": []},
    longest_active_seconds={"a": 2.0, "c": 0.0},
    blocked_senders={"a": 2, "c": 4},
    registry_entries={"ok": 1, "orphan": 3},
)


def read(state: RuntimeGauges) -> dict[str, dict[object, float]]:
    return {
        gauge.name: {list((o.attributes or {}).values())[-1]: o.value for o in gauge.read(state)}
        for gauge in GAUGES
    }


def test_types_that_become_one_are_added_and_the_longest_and_fullest_of_them_counts() -> None:
    assert read(ONE.folded({"b": "a"})) == {
        "papyra.message.active.max_age": {"a": 3.0},
        "papyra.mailbox.message.count": {"a": 8},
        "papyra.mailbox.message.max": {"a": 5},
        "papyra.mailbox.sender.blocked": {"a": 1},
        "papyra.registry.entry.count": {"ok": 2, "dead": 1},
    }


def test_what_runs_under_one_system_id_is_one_value_for_each_type() -> None:
    assert read(ONE.joined(OTHER)) == read(OTHER.joined(ONE))
    assert read(ONE.joined(OTHER)) == {
        "papyra.message.active.max_age": {"a": 2.0, "b": 3.0, "c": 0.0},
        "papyra.mailbox.message.count": {"a": 13, "b": 2, "c": 0},
        "papyra.mailbox.message.max": {"a": 7, "b": 2, "c": 0},
        "papyra.mailbox.sender.blocked": {"a": 3, "c": 4},
        "papyra.registry.entry.count": {"ok": 3, "dead": 1, "orphan": 3},
    }


def test_what_cannot_be_told_is_no_zero() -> None:
    assert read(RuntimeGauges(system="shop")) == {gauge.name: {} for gauge in GAUGES}
