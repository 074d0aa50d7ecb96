"""The alerts on facts that no metric tells, for the ruler of Loki."""

from __future__ import annotations

from typing import Final

from papyra_otel import semconv as s
from papyra_otel.grafana.names import label
from papyra_otel.grafana.promql import events
from papyra_otel.grafana.rules import Alert, Conditions
from papyra_otel.grafana.thresholds import MINUTE

__all__ = ["LOKI_ALERTS"]

_ANY = '{service_name=~".+"}'


def _counted(c: Conditions, *filters: str, by: tuple[str, ...] = (), window: float = 10 * MINUTE) -> str:
    grouped = ", ".join(("service_name", *map(label, by)))
    return f"sum by ({grouped}) (count_over_time({' | '.join((_ANY, *filters))} [{c.windows(window)}]))"


def _unhealthy(c: Conditions) -> str:
    unhealthy = f'{label(s.AUDIT_HEALTHY)}="false"'
    return f"{_counted(c, events(s.AUDIT_COMPLETED), unhealthy, by=(s.SYSTEM_ID,))} > 0"


def _risk(c: Conditions) -> str:
    return f"{_counted(c, events(s.LOG_RISK), by=(s.RISK_NAME,))} > 0"


def _timeouts(c: Conditions) -> str:
    counted = _counted(c, events(s.ASK_TIMED_OUT), by=(s.ACTOR_TYPE,), window=5 * MINUTE)
    return f"{counted} > {c.limits.ask_timeouts}"


LOKI_ALERTS: Final = (
    Alert(
        name="PapyraAuditUnhealthy",
        severity="warning",
        expr=_unhealthy,
        stays=5 * MINUTE,
        summary="{{ $labels.service_name }}: the audits of {{ $labels.papyra_system_id }} find something "
        "wrong",
        description="papyra-otel facts --kind audit --last 1 says what: papyra.audit.reasons has it in "
        "words.",
        dashboard="papyra-overview",
        panel=31,
        runbook="audit-unhealthy",
    ),
    Alert(
        name="PapyraLogRisk",
        severity="warning",
        expr=_risk,
        summary="{{ $labels.service_name }}: the server of the log may lose facts ({{ "
        "$labels.papyra_risk_name }})",
        description="A setting of the server was found that loses facts without a word. papyra-otel facts "
        "--name log.risk "
        "says which and what to do.",
        dashboard="papyra-persistence",
        panel=41,
        runbook="log-risk",
    ),
    Alert(
        name="PapyraAskTimeouts",
        severity="warning",
        expr=_timeouts,
        summary="{{ $labels.service_name }}: callers give up waiting for {{ $labels.papyra_actor_type }}",
        description="Answers come too late. Look at the longest handler and the mailboxes of that type. "
        "Above ten a minute "
        "not every one is forwarded; papyra-otel facts --name ask.timed_out shows all.",
        dashboard="papyra-actor",
        panel=4,
        runbook="ask-timeouts",
    ),
)
