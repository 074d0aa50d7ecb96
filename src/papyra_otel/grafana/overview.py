"""The overview: is everything all right, and if not, where to look."""

from __future__ import annotations

from typing import Final

from papyra_otel import semconv as s
from papyra_otel.grafana import promql as q
from papyra_otel.grafana.model import Board, Kind, Panel, Query, Row, Source
from papyra_otel.grafana.names import label

__all__ = ["OVERVIEW"]

_STAT: Final = 3
_TYPE = f"{{{{{label(s.ACTOR_TYPE)}}}}}"
_LATEST_LINE = q.line(
    s.ACTOR_ADDRESS,
    s.EXCEPTION_TYPE,
    s.DEAD_LETTER_REASON,
    s.ANOMALY_TYPE,
    s.AUDIT_REASONS,
    s.RECOVERY_MODE,
    s.DROPPED_COUNT,
)

_NOW = Row(
    1,
    "Now, and in the picked range",
    (
        Panel(
            id=2,
            kind=Kind.STAT,
            title="Processes",
            description="Processes that record facts and whose metrics arrive.",
            unit="short",
            queries=[Query(f"count(count by (job, instance) ({q.picked(s.QUEUE_CAPACITY)}))")],
            width=_STAT,
            height=4,
            empty="none",
        ),
        Panel(
            id=3,
            kind=Kind.STAT,
            title="Live actors",
            description="Actors that are ready for messages now.",
            unit="short",
            queries=[Query(q.summed(q.picked(s.ACTOR_COUNT, q.matching(s.ACTOR_STATE, "alive"))))],
            width=_STAT,
            height=4,
        ),
        Panel(
            id=4,
            kind=Kind.STAT,
            title="Messages/s",
            description="Messages that actors handled, well or not, per second.",
            unit="mps",
            queries=[Query(q.per_second(s.PROCESSED_MESSAGES))],
            width=_STAT,
            height=4,
        ),
        Panel(
            id=5,
            kind=Kind.STAT,
            title="Failures",
            description="Exceptions that actors did not handle, in the picked range.",
            unit="short",
            queries=[Query(q.growth_in_range(s.ACTOR_FAILURES))],
            width=_STAT,
            height=4,
            link="papyra-actor",
            empty="0",
        ),
        Panel(
            id=6,
            kind=Kind.STAT,
            title="Restarts",
            description="New incarnations of failed actors, in the picked range.",
            unit="short",
            queries=[Query(q.growth_in_range(s.ACTOR_RESTARTS))],
            width=_STAT,
            height=4,
            link="papyra-actor",
            empty="0",
        ),
        Panel(
            id=7,
            kind=Kind.STAT,
            title="Dead letters",
            description="Messages that could not be delivered, in the picked range.",
            unit="short",
            queries=[Query(q.growth_in_range(s.DEAD_LETTER_MESSAGES))],
            width=_STAT,
            height=4,
            link="papyra-dead-letters",
            empty="0",
        ),
        Panel(
            id=8,
            kind=Kind.STAT,
            title="Anomalies",
            description="Damage or loss in the log that the last scans found and nobody recovered from. "
            "Red: see the runbook "
            "of PapyraAnomalyFound.",
            unit="short",
            queries=[Query(q.summed(q.picked(s.ANOMALY_COUNT)))],
            width=_STAT,
            height=4,
            red_from=1,
            link="papyra-persistence",
        ),
        Panel(
            id=9,
            kind=Kind.STAT,
            title="Firing alerts",
            description="Alerts of papyra-otel's rules that fire now. Red: see Alerting for which.",
            unit="short",
            queries=[
                Query(
                    'count(ALERTS{alertname=~"Papyra.+",alertstate="firing",job=~"$job|",instance=~"$instance|"}) '
                    "or vector(0)"
                )
            ],
            width=_STAT,
            height=4,
            red_from=1,
        ),
    ),
)

_RED = Row(
    10,
    "Messages: rate, failures, duration",
    (
        Panel(
            id=11,
            kind=Kind.LINES,
            title="Messages handled, by actor type",
            description="How many messages actors of each type handled per second.",
            unit="mps",
            queries=[Query(q.per_second(s.PROCESSED_MESSAGES, s.ACTOR_TYPE), _TYPE)],
            stacked=True,
            link="papyra-actor",
            carries=(s.ACTOR_TYPE, "actor_type"),
        ),
        Panel(
            id=12,
            kind=Kind.LINES,
            title="Failures, by actor type and error",
            description="Exceptions that actors did not handle, per second.",
            unit="cps",
            queries=[
                Query(
                    q.per_second(s.ACTOR_FAILURES, s.ACTOR_TYPE, s.ERROR_TYPE),
                    f"{_TYPE} {{{{{label(s.ERROR_TYPE)}}}}}",
                )
            ],
            link="papyra-actor",
            carries=(s.ACTOR_TYPE, "actor_type"),
        ),
        Panel(
            id=13,
            kind=Kind.LINES,
            title="Handling time",
            description="How long handling a message took: half of them less than p50, all but one in a "
            "hundred less "
            "than p99. Above a rate per type it is a sample.",
            unit="s",
            queries=[
                Query(q.quantile(0.5, s.PROCESS_DURATION), "p50"),
                Query(q.quantile(0.99, s.PROCESS_DURATION), "p99"),
            ],
        ),
    ),
)

_USE = Row(
    20,
    "Actors: how many, how busy, how troubled",
    (
        Panel(
            id=21,
            kind=Kind.LINES,
            title="Actors, by state",
            description="Actors now, by what they do: alive, restarting, stopping.",
            unit="short",
            queries=[
                Query(q.summed(q.picked(s.ACTOR_COUNT), s.ACTOR_STATE), f"{{{{{label(s.ACTOR_STATE)}}}}}")
            ],
            stacked=True,
            decimals=0,
        ),
        Panel(
            id=22,
            kind=Kind.LINES,
            title="Messages waiting in mailboxes",
            description="Messages that wait for actors of each type. What grows without end is an actor "
            "that is too slow.",
            unit="short",
            queries=[Query(q.summed(q.picked(s.MAILBOX_COUNT), s.ACTOR_TYPE), _TYPE)],
            link="papyra-actor",
            carries=(s.ACTOR_TYPE, "actor_type"),
        ),
        Panel(
            id=23,
            kind=Kind.LINES,
            title="Longest handler now running",
            description="For how long the message that is handled longest has been handled, by actor type. "
            "A line that "
            "only rises is an actor that hangs.",
            unit="s",
            queries=[Query(q.summed(q.picked(s.ACTIVE_MAX_AGE), s.ACTOR_TYPE, how="max"), _TYPE)],
            link="papyra-actor",
            carries=(s.ACTOR_TYPE, "actor_type"),
        ),
        Panel(
            id=24,
            kind=Kind.LINES,
            title="Supervision, by outcome",
            description="What was decided about failed actors, per second, by what came of it.",
            unit="cps",
            queries=[
                Query(
                    q.per_second(s.SUPERVISION_DECISIONS, s.SUPERVISION_OUTCOME),
                    f"{{{{{label(s.SUPERVISION_OUTCOME)}}}}}",
                )
            ],
        ),
        Panel(
            id=25,
            kind=Kind.LINES,
            title="Dead letters, by reason",
            description="Messages that could not be delivered, per second.",
            unit="mps",
            queries=[
                Query(
                    q.per_second(s.DEAD_LETTER_MESSAGES, s.DEAD_LETTER_REASON),
                    f"{{{{{label(s.DEAD_LETTER_REASON)}}}}}",
                )
            ],
            link="papyra-dead-letters",
            carries=(s.DEAD_LETTER_REASON, "reason"),
        ),
        Panel(
            id=26,
            kind=Kind.LINES,
            title="Registry, by state of the entry",
            description="Names in the runtime's registry: of live actors (ok), of nothing (orphan), of "
            "ended actors (dead).",
            unit="short",
            queries=[Query(q.summed(q.picked(s.REGISTRY_ENTRIES), s.STATE), f"{{{{{s.STATE}}}}}")],
            decimals=0,
        ),
    ),
)

_FACTS = Row(
    30,
    "The facts",
    (
        Panel(
            id=31,
            kind=Kind.LOGS,
            title="Latest facts",
            description="What happened, newest first, without processed messages and without audits and scans "
            "that found nothing. Open a line for all it says and the link to its trace.",
            unit="short",
            queries=[
                Query(
                    q.facts(
                        'event_name=~"papyra[.].+"',
                        f'event_name!="{s.MESSAGE_PROCESSED}"',
                        q.NO_GOOD_AUDITS,
                        q.NO_GOOD_SCANS,
                        _LATEST_LINE,
                    ),
                    source=Source.LOKI,
                )
            ],
            width=16,
            height=10,
        ),
        Panel(
            id=32,
            kind=Kind.BARS,
            title="What the recorder left out",
            description="In the picked range: errors of the instrumentation itself, events kept in the log "
            "but not "
            "forwarded, attribute values folded into _OTHER.",
            unit="short",
            queries=[
                Query(q.growth_in_range(s.INSTRUMENTATION_ERRORS), "own errors", instant=True),
                Query(q.growth_in_range(s.EVENT_SUPPRESSED), "not forwarded", instant=True),
                Query(q.growth_in_range(s.ATTRIBUTE_OVERFLOW), "values folded", instant=True),
            ],
            height=10,
        ),
    ),
)

OVERVIEW: Final = Board(
    uid="papyra-overview",
    title="Papyra / Overview",
    description="Actor systems at a glance: who runs, what fails, what is lost.",
    rows=(_NOW, _RED, _USE, _FACTS),
)
