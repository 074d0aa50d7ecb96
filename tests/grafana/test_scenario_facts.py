"""The facts of the bad day: Loki's own LogQL engine finds in them what the programs did, and nothing else."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from grafana.asked import BOARDS, annotation, asked, panel
from grafana.conftest import AtRest
from grafana.logs import LINES_MAX, Line
from grafana.scenario.day import CONDITIONS, EXPECTED, EXPECTED_OF_FACTS, WITH_AN_OUTBOX, Day, wait_until
from papyra_otel import Fact, open_log
from papyra_otel import semconv as s
from papyra_otel.grafana.loki import LOKI_ALERTS
from papyra_otel.grafana.names import label

pytestmark = [pytest.mark.grafana, pytest.mark.timeout(900)]  # the first one may have to build

LOKI = [
    pytest.param(target["expr"], target["queryType"], id=f"{board['uid']}-{shown['id']}")
    for board in BOARDS.values()
    for shown in board["panels"]
    for target in shown.get("targets", [])
    if target["datasource"]["type"] == "loki"
]
EVERY = 100_000  # more than there are


def stored(day: Day, name: str, until: float) -> list[Fact]:
    """Return what is in the log of a process and leaves its machine."""
    with open_log(day.processes[name].log) as log:
        facts = [entry.fact for entry in log.read(until=round(until * 1e9))]
    return [fact for fact in facts if fact.name != s.MESSAGE_PROCESSED]


def lines(day: Day, expr: str, at_rest: AtRest, **chosen: str) -> list[Line]:
    return day.facts.lines(asked(expr, **chosen), day.begin, at_rest.since, EVERY)


def named(line: Line, attribute: str) -> str:
    return line.labels.get(label(attribute), "")


# --- what arrives ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WITH_AN_OUTBOX)
def test_everything_that_an_outbox_has_to_deliver_arrives_also_while_the_collector_is_away(
    name: str, day: Day, at_rest: AtRest
):
    facts = stored(day, name, at_rest.since)

    def arrived() -> set[str]:
        found = lines(day, f'{{service_name="{name}"}}', at_rest)
        return {named(line, s.LOG_RECORD_UID) for line in found}

    wanted = {str(fact.uid) for fact in facts}
    wait_until("all that is stored has arrived", lambda: wanted <= arrived())
    assert arrived() == wanted
    if name == "collector_outage":
        begin, end = day.collector_away
        assert [fact for fact in facts if begin < fact.time_unix_nano / 1e9 < end], (
            "nothing happened meanwhile"
        )


def test_facts_have_the_event_name_time_and_attributes_that_were_recorded(day: Day, at_rest: AtRest):
    facts = {
        fact.uid: (fact.time_unix_nano, fact.name, fact.severity)
        for fact in stored(day, "storm", at_rest.since)
    }
    found = lines(day, '{service_name="storm"}', at_rest)
    shown = {
        named(line, s.LOG_RECORD_UID): (line.time, line.labels["event_name"], line.labels["severity_text"])
        for line in found
    }
    assert shown == facts


# --- panels ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("expr", "how"), LOKI)
def test_every_query_of_every_panel_finds_facts(day: Day, expr: str, how: str):
    if how == "instant":
        assert day.facts.numbers(asked(expr), day.end)
    else:
        assert day.facts.lines(asked(expr), day.begin, day.end)


def test_the_variable_offers_every_service(day: Day):
    choices = [
        each
        for board in BOARDS.values()
        for each in board["templating"]["list"]
        if "loki" in each.get("datasource", {}).get("uid", "")
    ]
    assert {each["name"] for each in choices} == {"service"}
    for each in choices:
        assert day.facts.values(each["query"]["label"]) == set(EXPECTED)


def test_dead_letters_by_address_are_those_that_the_programs_wrote(day: Day, at_rest: AtRest):
    expr = panel("papyra-dead-letters", 15)
    wrote = Counter(
        {address: count for did in at_rest.did.values() for address, count in did["letters"].items()}
    )
    every = asked(expr).removeprefix("topk(10, ").removesuffix(")")

    def told(asked_for: str) -> Counter[str]:
        found = day.facts.numbers(asked_for, at_rest.since + 1)
        return Counter({labels[label(s.ACTOR_ADDRESS)]: int(value) for labels, value in found})

    wait_until("all letters have arrived", lambda: told(every).total() >= wrote.total())
    assert told(every) == wrote
    shown = told(asked(expr))
    assert sorted(shown.values()) == sorted(count for _, count in wrote.most_common(10))
    assert shown.items() <= wrote.items()
    assert told(asked(expr, service="storm")) == at_rest.did["storm"]["letters"]


def test_examples_say_reason_address_kind_and_type_newest_first(day: Day, at_rest: AtRest):
    letters = [fact for fact in stored(day, "storm", at_rest.since) if fact.name == s.DEAD_LETTER_CAPTURED]
    said = (s.DEAD_LETTER_REASON, s.ACTOR_ADDRESS, s.MESSAGE_KIND, s.MESSAGE_TYPE)
    expected = [
        (
            fact.time_unix_nano,
            " ".join(str({s.ACTOR_ADDRESS: fact.actor, **fact.attributes}[n]) for n in said),
        )
        for fact in letters
    ]
    expr = asked(panel("papyra-dead-letters", 21), service="storm")
    found = day.facts.lines(expr, day.begin, at_rest.since)
    shown = [(line.time, line.text) for line in found]
    assert len(letters) > 60
    assert shown == sorted(expected, reverse=True)[:LINES_MAX]


def test_the_life_story_of_an_actor_is_what_befell_it_and_of_no_other(day: Day, at_rest: AtRest):
    hopeless = at_rest.did["crash_loop"]["hopeless"]
    found = lines(day, panel("papyra-actor", 21), at_rest, service="crash_loop", address=hopeless)
    story = [line.text.split() for line in reversed(found)]
    once = ["papyra.actor.exception", hopeless, "ConnectionError"]
    assert story == [
        ["papyra.actor.started", hopeless],
        once,
        ["papyra.actor.restarted", hopeless],
        ["papyra.supervision.decided", hopeless, "restarted"],
        once,
        ["papyra.supervision.decided", hopeless, "restart_limit_exceeded"],
        ["papyra.actor.stopped", hopeless, "restart_limit"],
    ]


def test_an_address_is_asked_for_as_it_is_written_whatever_that_means_in_a_regex(day: Day):
    expr = panel("papyra-actor", 21)
    assert day.facts.lines(asked(expr, address="storm:3"), day.begin, day.end)
    for address in ("storm.3", "storm:[0-9]", ".*", r"storm\:3", "storm:3|", "(", '"'):
        assert day.facts.lines(asked(expr, address=address), day.begin, day.end) == []


def found_nothing(fact: Fact) -> bool:
    healthy = fact.name == s.AUDIT_COMPLETED and fact.attributes[s.AUDIT_HEALTHY] is True
    return healthy or (fact.name == s.LOG_SCANNED and fact.attributes[s.SCAN_ANOMALIES] == 0)


def test_the_latest_facts_are_all_but_messages_and_what_found_nothing(day: Day, at_rest: AtRest):
    found = lines(day, panel("papyra-overview", 31), at_rest, service="storm|impatient")
    every = [*stored(day, "storm", at_rest.since), *stored(day, "impatient", at_rest.since)]
    facts = [fact for fact in every if not found_nothing(fact)]
    assert len(every) > len(facts)
    assert Counter(named(line, s.LOG_RECORD_UID) for line in found) == Counter(fact.uid for fact in facts)
    assert {line.text.split()[0] for line in found} == {fact.name for fact in facts}
    audits = {line.text for line in found if line.text.startswith(s.AUDIT_COMPLETED)}
    assert {" ".join(text.split()) for text in audits} == {f'{s.AUDIT_COMPLETED} ["1 registry orphan"]'}
    assert [line.time for line in found] == sorted((fact.time_unix_nano for fact in facts), reverse=True)


def test_what_was_found_and_done_is_told_without_the_scans_that_found_nothing(day: Day, at_rest: AtRest):
    found = lines(day, panel("papyra-persistence", 41), at_rest, service="damaged")
    told = [line.text.split() for line in found]
    assert {each[0] for each in told} == {s.LOG_SCANNED, s.LOG_ANOMALY, s.LOG_RECOVERED}
    assert all("crc_mismatch=1" in " ".join(each) for each in told if each[0] == s.LOG_SCANNED)
    assert [each[1] for each in told if each[0] == s.LOG_RECOVERED] == ["repair"]
    assert lines(day, panel("papyra-persistence", 41), at_rest, service="neglected") == []


def test_what_was_lost_is_told_with_how_much_and_why(day: Day, at_rest: AtRest):
    found = lines(day, panel("papyra-persistence", 41), at_rest, service="disk_full")
    dropped = [line for line in found if line.text.startswith(s.FACT_DROPPED)]
    lost = day.prometheus.query(
        'sum by (error_type) (papyra_persistence_dropped_total{instance="disk_full"}) > 0'
    )
    by_metric = {each["metric"]["error_type"]: int(each["value"][1]) for each in lost}
    by_fact: Counter[str] = Counter()
    for line in dropped:
        _, count, why = line.text.split()
        by_fact[why] += int(count)
    assert by_fact == by_metric
    assert by_fact["ENOSPC"] > 0


# --- annotations ----------------------------------------------------------------------------------------------------


def marked(day: Day, at_rest: AtRest, name: str) -> Counter[tuple[str, str]]:
    """Return (service, title) of the marks in the graphs."""
    shown = annotation(name)
    pattern = shown["titleFormat"]
    attributes = re.findall(r"\{\{(\w+)\}\}", pattern)

    def title(line: Line) -> str:
        text = pattern
        for each in attributes:
            text = text.replace(f"{{{{{each}}}}}", line.labels[each])
        return text

    return Counter((line.labels["service_name"], title(line)) for line in lines(day, shown["expr"], at_rest))


def test_anomalies_are_marked_as_often_as_metrics_count_them(day: Day, at_rest: AtRest):
    marks = marked(day, at_rest, "Anomalies")
    found = day.prometheus.query("papyra_persistence_anomalies_total > 0")
    counted = {
        (each["metric"]["instance"], each["metric"][label(s.ANOMALY_TYPE)]): int(each["value"][1])
        for each in found
    }
    assert marks == counted
    assert {title for service, title in marks if service == "damaged"} == {
        "crc_mismatch",  # the flipped bit
        "gap",  # the fact that it was in
        "segment_digest",  # what was sealed is not that any more
        "unexpected_file",  # the notes
    }


def test_recoveries_and_compactions_are_marked(day: Day, at_rest: AtRest):
    recovered = marked(day, at_rest, "Recoveries")
    torn = ("disk_full", "torn_tail") in marked(day, at_rest, "Anomalies")
    assert recovered == {
        ("damaged", "recovered: repair"): 1,
        **({("disk_full", "recovered: quarantine"): 1} if torn else {}),
    }
    assert marked(day, at_rest, "Compactions") == {("healthy", "compacted"): 1}


# --- the ruler's rules ----------------------------------------------------------------------------------------------


def test_every_alert_on_facts_fires_for_its_incident_and_no_other_does(day: Day):
    expected = {(name, alert) for name, alerts in EXPECTED_OF_FACTS.items() for alert in alerts}
    assert day.fired_of_facts == expected


def test_the_day_has_an_incident_for_every_alert_on_facts():
    assert {alert.name for alert in LOKI_ALERTS} == set.union(*EXPECTED_OF_FACTS.values())


def test_all_alerts_on_facts_resolve(day: Day):
    assert day.unresolved_of_facts == set()


@pytest.mark.parametrize("alert", LOKI_ALERTS, ids=lambda alert: alert.name)
def test_what_an_alert_says_names_labels_that_it_has(day: Day, alert):
    series = day.facts.series(alert.expr(CONDITIONS), day.begin, day.end, 0.5)
    names = set(re.findall(r"\$labels\.(\w+)", alert.summary + alert.description))
    assert series
    for each in series:
        assert names <= set(each["metric"])
