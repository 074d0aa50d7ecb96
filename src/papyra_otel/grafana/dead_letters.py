"""Dead letters: how many, why, whose, and what was in them."""

from __future__ import annotations

from typing import Final

from papyra_otel import semconv as s
from papyra_otel.grafana import promql as q
from papyra_otel.grafana.model import Board, Kind, Panel, Query, Row, Source, Variable
from papyra_otel.grafana.names import label, metric

__all__ = ["DEAD_LETTERS"]

_ASKED = f'{label(s.DEAD_LETTER_REASON)}=~"$reason"'
_LOST = q.matching(s.DEAD_LETTER_REASON, "undrained|lost")
_TYPE = f"{{{{{label(s.ACTOR_TYPE)}}}}}"
_REASON = f"{{{{{label(s.DEAD_LETTER_REASON)}}}}}"
_LETTERS = (q.events(s.DEAD_LETTER_CAPTURED), _ASKED)

_NOW = Row(
    1,
    "In the picked range",
    (
        Panel(
            id=2,
            kind=Kind.STAT,
            title="Dead letters",
            description="Messages that could not be delivered.",
            unit="short",
            queries=[Query(q.growth_in_range(s.DEAD_LETTER_MESSAGES, matchers=(_ASKED,)))],
            width=6,
            height=4,
            empty="0",
        ),
        Panel(
            id=3,
            kind=Kind.STAT,
            title="Per 1,000 messages",
            description="Dead letters for each thousand messages that were handled.",
            unit="short",
            queries=[
                Query(
                    f"1000 * {q.growth_in_range(s.DEAD_LETTER_MESSAGES, matchers=(_ASKED,))}"
                    f" / {q.growth_in_range(s.PROCESSED_MESSAGES)}"
                )
            ],
            width=6,
            height=4,
            decimals=1,
            empty="0",
        ),
        Panel(
            id=4,
            kind=Kind.STAT,
            title="Accepted, then lost",
            description="Messages that an actor had accepted and never handled: left in a mailbox, or "
            "acknowledged and "
            "lost. Red: see the runbook of PapyraMessagesLost.",
            unit="short",
            queries=[Query(q.growth_in_range(s.DEAD_LETTER_MESSAGES, matchers=(_LOST,)))],
            width=6,
            height=4,
            red_from=1,
            empty="0",
        ),
        Panel(
            id=5,
            kind=Kind.STAT,
            title="Now",
            description="Dead letters per second.",
            unit="mps",
            queries=[Query(q.per_second(s.DEAD_LETTER_MESSAGES, matchers=(_ASKED,)))],
            width=6,
            height=4,
            empty="0",
        ),
    ),
)

_WHY = Row(
    10,
    "Why, whose, what",
    (
        Panel(
            id=11,
            kind=Kind.LINES,
            title="By reason",
            description="Why they could not be delivered, per second.",
            unit="mps",
            queries=[
                Query(q.per_second(s.DEAD_LETTER_MESSAGES, s.DEAD_LETTER_REASON, matchers=(_ASKED,)), _REASON)
            ],
            width=12,
            stacked=True,
        ),
        Panel(
            id=12,
            kind=Kind.LINES,
            title="By target",
            description="Types of the actors they were meant for, per second.",
            unit="mps",
            queries=[Query(q.per_second(s.DEAD_LETTER_MESSAGES, s.ACTOR_TYPE, matchers=(_ASKED,)), _TYPE)],
            width=12,
            stacked=True,
            link="papyra-actor",
            carries=(s.ACTOR_TYPE, "actor_type"),
        ),
        Panel(
            id=13,
            kind=Kind.BARS,
            title="By type of message",
            description="Classes of the messages, the ten most frequent in the picked range; the "
            "fifty-first and later "
            "classes are _OTHER.",
            unit="short",
            queries=[
                Query(
                    "topk(10, "
                    f"{q.found_in_range(s.DEAD_LETTER_MESSAGES, s.MESSAGE_TYPE, matchers=(_ASKED,))})",
                    f"{{{{{label(s.MESSAGE_TYPE)}}}}}",
                    instant=True,
                )
            ],
        ),
        Panel(
            id=14,
            kind=Kind.BARS,
            title="By kind of message",
            description="How they were sent, in the picked range.",
            unit="short",
            queries=[
                Query(
                    q.found_in_range(s.DEAD_LETTER_MESSAGES, s.MESSAGE_KIND, matchers=(_ASKED,)),
                    f"{{{{{label(s.MESSAGE_KIND)}}}}}",
                    instant=True,
                )
            ],
        ),
        Panel(
            id=15,
            kind=Kind.BARS,
            title="By address",
            description="The ten addresses that most of them were meant for, from the facts that were "
            "forwarded in the "
            "picked range.",
            unit="short",
            queries=[
                Query(
                    f"topk(10, sum by ({label(s.ACTOR_ADDRESS)}) (count_over_time({q.facts(*_LETTERS)} "
                    "[$__range])))",
                    f"{{{{{label(s.ACTOR_ADDRESS)}}}}}",
                    source=Source.LOKI,
                    instant=True,
                )
            ],
        ),
    ),
)

_FACTS = Row(
    20,
    "The facts",
    (
        Panel(
            id=21,
            kind=Kind.LOGS,
            title="Examples",
            description="Dead letters, newest first. Open a line for all it says and the link to its "
            "trace. At most ten a "
            "minute of a kind are forwarded; papyra-otel facts shows all.",
            unit="short",
            queries=[
                Query(
                    q.facts(
                        *_LETTERS,
                        f"line_format `{{{{.{label(s.DEAD_LETTER_REASON)}}}}} "
                        f"{{{{.{label(s.ACTOR_ADDRESS)}}}}}"
                        f" {{{{.{label(s.MESSAGE_KIND)}}}}} {{{{.{label(s.MESSAGE_TYPE)}}}}}`",
                    ),
                    source=Source.LOKI,
                )
            ],
            width=24,
            height=10,
        ),
    ),
)

DEAD_LETTERS: Final = Board(
    uid="papyra-dead-letters",
    title="Papyra / Dead letters",
    description="Messages that could not be delivered: how many, why, to whom.",
    rows=(_NOW, _WHY, _FACTS),
    variables=(
        Variable(
            name="reason",
            label="Reason",
            query=f'label_values({metric(s.DEAD_LETTER_MESSAGES)}{{job=~"$job"}}, {label(s.DEAD_LETTER_REASON)})',
        ),
    ),
)
