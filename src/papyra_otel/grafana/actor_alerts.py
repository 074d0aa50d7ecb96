"""The alerts about actors and their messages, and about whether anybody still watches."""

from __future__ import annotations

from typing import Final

from papyra_otel import semconv as s
from papyra_otel.grafana.expressions import by_labels, first_or_more, growth, level, named, series_of, zero
from papyra_otel.grafana.promql import matching
from papyra_otel.grafana.rules import Alert, Conditions
from papyra_otel.grafana.thresholds import HOUR, MINUTE

__all__ = ["ACTOR_ALERTS", "TELEMETRY_ABSENT", "WATCH_ALERTS"]

_OVERVIEW: Final = "papyra-overview"
_LETTERS: Final = "papyra-dead-letters"
_ACTOR: Final = "papyra-actor"

TELEMETRY_ABSENT: Final = "PapyraTelemetryAbsent"


def _sustained(c: Conditions) -> str:
    rate = f"rate({series_of(s.DEAD_LETTER_MESSAGES)}[{c.windows(10 * MINUTE)}])"
    return f"sum {by_labels(s.ACTOR_TYPE, s.DEAD_LETTER_REASON)} ({rate}) > {c.limits.dead_letters_rate:g}"


def _absent(c: Conditions) -> str:
    alive = series_of(s.QUEUE_CAPACITY)
    lately, before = c.windows(10 * MINUTE), c.windows(6 * HOUR)
    return (
        f"group by (job) (last_over_time({alive}[{before}] offset {lately}))\n"
        f"  unless group by (job) (last_over_time({alive}[{lately}]))"
    )


ACTOR_ALERTS: Final = (
    Alert(
        name="PapyraRestartLimitExceeded",
        severity="critical",
        expr=first_or_more(
            s.SUPERVISION_DECISIONS,
            s.ACTOR_TYPE,
            matchers=(matching(s.SUPERVISION_OUTCOME, "restart_limit_exceeded"),),
        ),
        keeps=5 * MINUTE,
        summary=f"{{{{ $labels.instance }}}}: an actor of type {named(s.ACTOR_TYPE)} failed too often and "
        "is gone",
        description="Nobody restarts it any more; what is sent to it becomes dead letters. papyra-otel "
        "facts --name "
        "actor.exception shows why. Fix the cause, then restart the process.",
        dashboard=_ACTOR,
        panel=12,
        runbook="restart-limit-exceeded",
    ),
    Alert(
        name="PapyraRestartStorm",
        severity="warning",
        expr=growth(s.ACTOR_RESTARTS, s.ACTOR_TYPE, window=5 * MINUTE, over=lambda c: str(c.limits.restarts)),
        stays=MINUTE,
        summary=f"{{{{ $labels.instance }}}}: {{{{ $value | humanize }}}} restarts of "
        f"{named(s.ACTOR_TYPE)} in five minutes",
        description="It fails again and again. papyra-otel facts --name actor.exception shows with what; "
        "look at what it "
        "depends on, and at the message that it fails on.",
        dashboard=_ACTOR,
        panel=13,
        runbook="restart-storm",
    ),
    Alert(
        name="PapyraStartFailures",
        severity="warning",
        expr=first_or_more(
            s.ACTOR_FAILURES, s.ACTOR_TYPE, s.ERROR_TYPE, matchers=(matching(s.FAILURE_PHASE, "start"),)
        ),
        keeps=5 * MINUTE,
        summary=f"{{{{ $labels.instance }}}}: {named(s.ACTOR_TYPE)} cannot start ({named(s.ERROR_TYPE)})",
        description="An actor raised before it was ready. Look at its configuration and at what it "
        "connects to; "
        "papyra-otel facts --name actor.exception has the traceback.",
        dashboard=_ACTOR,
        panel=11,
        runbook="start-failures",
    ),
    Alert(
        name="PapyraHandlerStuck",
        severity="warning",
        expr=level(s.ACTIVE_MAX_AGE, s.ACTOR_TYPE, over=lambda c: c.windows.limit(c.limits.handler_runs)),
        stays=MINUTE,
        summary=f"{{{{ $labels.instance }}}}: {named(s.ACTOR_TYPE)} has handled one message for "
        "{{ $value | humanizeDuration }}",
        description="Everything behind that message waits. Take a stack dump of the process (py-spy dump), "
        "look at what it "
        "waits for, and give that call a timeout.",
        dashboard=_ACTOR,
        panel=6,
        runbook="handler-stuck",
    ),
    Alert(
        name="PapyraDeadLetterBurst",
        severity="warning",
        expr=growth(
            s.DEAD_LETTER_MESSAGES,
            s.ACTOR_TYPE,
            s.DEAD_LETTER_REASON,
            window=5 * MINUTE,
            over=lambda c: str(c.limits.dead_letters_burst),
        ),
        summary=f"{{{{ $labels.instance }}}}: {{{{ $value | humanize }}}} messages to "
        f"{named(s.ACTOR_TYPE)} were not delivered "
        f"({named(s.DEAD_LETTER_REASON)})",
        description="papyra-otel facts --kind dead_letter shows which. Find out whether the target ended "
        "or was never "
        "there, and who still sends to it.",
        dashboard=_LETTERS,
        panel=11,
        runbook="dead-letter-burst",
    ),
    Alert(
        name="PapyraDeadLettersSustained",
        severity="warning",
        expr=_sustained,
        stays=30 * MINUTE,
        summary=f"{{{{ $labels.instance }}}}: messages to {named(s.ACTOR_TYPE)} are not delivered, for "
        "half an hour now "
        f"({named(s.DEAD_LETTER_REASON)})",
        description="Somebody keeps sending to an actor that is not there. papyra-otel facts --kind "
        "dead_letter shows "
        "to which address.",
        dashboard=_LETTERS,
        panel=12,
        runbook="dead-letters-sustained",
    ),
    Alert(
        name="PapyraMessagesLost",
        severity="critical",
        expr=first_or_more(
            s.DEAD_LETTER_MESSAGES,
            s.ACTOR_TYPE,
            s.DEAD_LETTER_REASON,
            matchers=(matching(s.DEAD_LETTER_REASON, "undrained|lost"),),
        ),
        keeps=5 * MINUTE,
        summary=f"{{{{ $labels.instance }}}}: {named(s.ACTOR_TYPE)} had accepted messages and never "
        "handled them",
        description="They are gone for the program, but in the log: papyra-otel facts --kind dead_letter "
        "shows each, with "
        "its payload if that is recorded. Send again what matters.",
        dashboard=_LETTERS,
        panel=4,
        runbook="messages-lost",
    ),
)

WATCH_ALERTS: Final = (
    Alert(
        name="PapyraAuditStale",
        severity="warning",
        expr=level(s.AUDIT_AGE, s.SYSTEM_ID, over=lambda c: c.windows.limit(c.limits.audit_age)),
        stays=MINUTE,
        summary=f"{{{{ $labels.instance }}}}: system {named(s.SYSTEM_ID)} was last audited "
        "{{ $value | humanizeDuration }} ago",
        description="The process may hang: its event loop or the interpreter is blocked. Take a stack dump "
        "(py-spy dump). "
        "If audits are rarer on purpose, raise the threshold.",
        dashboard=_OVERVIEW,
        panel=26,
        runbook="audit-stale",
    ),
    Alert(
        name="PapyraRegistryUnhealthy",
        severity="warning",
        expr=level(
            s.REGISTRY_ENTRIES,
            s.SYSTEM_ID,
            s.STATE,
            over=zero,
            matchers=(matching(s.STATE, "ok", negated=True),),
        ),
        stays=10 * MINUTE,
        summary=f"{{{{ $labels.instance }}}}: {{{{ $value }}}} {named(s.STATE)} entries in the registry "
        f"of {named(s.SYSTEM_ID)}",
        description="Names lead to nothing or to ended actors; whoever looks them up sends into the void. "
        "papyra-otel facts "
        "--kind audit --last 1 lists them.",
        dashboard=_OVERVIEW,
        panel=26,
        runbook="registry-unhealthy",
    ),
    Alert(
        name=TELEMETRY_ABSENT,
        severity="critical",
        expr=_absent,
        summary="{{ $labels.job }}: no process of it reports any more",
        description="It is down, or its metrics do not arrive: until then no other alert of it means "
        "anything. Look whether "
        "it runs, then at the scrape or the collector.",
        dashboard=_OVERVIEW,
        panel=2,
        runbook="telemetry-absent",
    ),
)
