"""One type of actor in depth, and the life story of one actor."""

from __future__ import annotations

from typing import Final

from papyra_otel import semconv as s
from papyra_otel.grafana import promql as q
from papyra_otel.grafana.model import Board, Kind, Panel, Query, Row, Source, Variable
from papyra_otel.grafana.names import label, metric

__all__ = ["ACTOR"]

_ASKED = f'{label(s.ACTOR_TYPE)}=~"$actor_type"'
_ONLY = (_ASKED,)
_DONE = q.per_second(s.PROCESSED_MESSAGES, matchers=_ONLY)
_WAITING = q.summed(q.picked(s.MAILBOX_COUNT, _ASKED))
_PILING_UP = q.summed(f"deriv({q.picked(s.MAILBOX_COUNT, _ASKED)}[{q.RATE}])")
_WORK = (
    f"{q.per_second(s.PROCESS_DURATION, matchers=_ONLY, suffix='_sum')}"
    f" / {q.per_second(s.PROCESS_DURATION, matchers=_ONLY, suffix='_count')}"
)

_FLOW = Row(
    1,
    "Flow",
    (
        Panel(
            id=2,
            kind=Kind.LINES,
            width=6,
            title="Instances, by state",
            description="Actors of the picked types now, by what they do.",
            unit="short",
            queries=[
                Query(
                    q.summed(q.picked(s.ACTOR_COUNT, _ASKED), s.ACTOR_STATE),
                    f"{{{{{label(s.ACTOR_STATE)}}}}}",
                )
            ],
            stacked=True,
            decimals=0,
        ),
        Panel(
            id=3,
            kind=Kind.LINES,
            width=6,
            title="Arriving against handled",
            description="Messages per second that came in and that were handled. What arrives is reckoned "
            "from what was "
            "handled and how the mailboxes grew.",
            unit="mps",
            queries=[
                Query(f"clamp_min({_DONE} + ({_PILING_UP} or vector(0)), 0)", "arriving"),
                Query(_DONE, "handled"),
            ],
        ),
        Panel(
            id=4,
            kind=Kind.LINES,
            width=6,
            title="Waiting against working",
            description="How long a message waits, reckoned from the mailboxes and the rate (Little's "
            "law), and how long "
            "handling it takes on average.",
            unit="s",
            queries=[Query(f"{_WAITING} / ({_DONE} > 0)", "waiting"), Query(_WORK, "working")],
        ),
        Panel(
            id=7,
            kind=Kind.LINES,
            title="Waiting in mailboxes, and for room in one",
            description="Messages in mailboxes, and senders that wait because a mailbox is full.",
            unit="short",
            queries=[
                Query(_WAITING, "messages"),
                Query(q.summed(q.picked(s.BLOCKED_SENDERS, _ASKED)), "senders waiting"),
            ],
            width=6,
        ),
        Panel(
            id=5,
            kind=Kind.HEATMAP,
            title="Handling time",
            description="Messages by how long handling them took. Above a rate per type it is a sample.",
            unit="s",
            queries=[
                Query(
                    "sum by (le) "
                    f"(increase({q.picked(s.PROCESS_DURATION, _ASKED, suffix='_bucket')}[{q.RATE}]))",
                    "{{le}}",
                )
            ],
            width=12,
        ),
        Panel(
            id=6,
            kind=Kind.LINES,
            title="Longest handler, fullest mailbox",
            description="For how long the message that is handled longest has been handled, and how many "
            "messages wait in "
            "the fullest mailbox.",
            unit="s",
            queries=[
                Query(q.summed(q.picked(s.ACTIVE_MAX_AGE, _ASKED), how="max"), "longest handler"),
                Query(q.summed(q.picked(s.MAILBOX_MAX, _ASKED), how="max"), "fullest mailbox"),
            ],
            on_the_right="fullest mailbox",
            width=12,
        ),
    ),
)

_TROUBLE = Row(
    10,
    "Trouble",
    (
        Panel(
            id=11,
            kind=Kind.LINES,
            title="Failures, by phase and error",
            description="Exceptions that were not handled, per second, by what the actor was doing.",
            unit="cps",
            queries=[
                Query(
                    q.per_second(s.ACTOR_FAILURES, s.FAILURE_PHASE, s.ERROR_TYPE, matchers=_ONLY),
                    f"{{{{{label(s.FAILURE_PHASE)}}}}} {{{{{label(s.ERROR_TYPE)}}}}}",
                )
            ],
        ),
        Panel(
            id=12,
            kind=Kind.LINES,
            title="Supervision, by directive and outcome",
            description="What was decided about failed actors, per second, and what came of it.",
            unit="cps",
            queries=[
                Query(
                    q.per_second(
                        s.SUPERVISION_DECISIONS,
                        s.SUPERVISION_DIRECTIVE,
                        s.SUPERVISION_OUTCOME,
                        matchers=_ONLY,
                    ),
                    f"{{{{{label(s.SUPERVISION_DIRECTIVE)}}}}} → {{{{{label(s.SUPERVISION_OUTCOME)}}}}}",
                )
            ],
        ),
        Panel(
            id=13,
            kind=Kind.LINES,
            title="Starts, restarts, stops",
            description="Per second; stops by reason.",
            unit="cps",
            queries=[
                Query(q.per_second(s.ACTOR_STARTS, matchers=_ONLY), "starts"),
                Query(q.per_second(s.ACTOR_RESTARTS, matchers=_ONLY), "restarts"),
                Query(
                    q.per_second(s.ACTOR_STOPS, s.STOP_REASON, matchers=_ONLY),
                    f"stops: {{{{{label(s.STOP_REASON)}}}}}",
                ),
            ],
        ),
    ),
)

_FACTS = Row(
    20,
    "One actor",
    (
        Panel(
            id=21,
            kind=Kind.LOGS,
            title="Life story",
            description="What happened to the actors whose address matches, newest first. Open a line for "
            "all it says and "
            "the link to its trace.",
            unit="short",
            queries=[
                Query(
                    q.facts(
                        f'{label(s.ACTOR_TYPE)}=~"$actor_type"',
                        # Grafana puts backslashes before what means something in a regex; quotes would not take them
                        f"{label(s.ACTOR_ADDRESS)}=~`.*${{address:regex}}.*`",
                        q.line(
                            s.ACTOR_ADDRESS,
                            s.EXCEPTION_TYPE,
                            s.DEAD_LETTER_REASON,
                            s.STOP_REASON,
                            s.SUPERVISION_OUTCOME,
                        ),
                    ),
                    source=Source.LOKI,
                )
            ],
            width=24,
            height=12,
        ),
    ),
)

ACTOR: Final = Board(
    uid="papyra-actor",
    title="Papyra / Actor",
    description="Actors by type: flow, latency, trouble; and the life story of one of them.",
    rows=(_FLOW, _TROUBLE, _FACTS),
    variables=(
        Variable(
            name="actor_type",
            label="Actor type",
            query=f'label_values({metric(s.ACTOR_STARTS)}{{job=~"$job"}}, {label(s.ACTOR_TYPE)})',
        ),
        Variable(name="address", label="Address contains"),
    ),
)
