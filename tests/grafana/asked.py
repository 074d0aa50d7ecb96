"""What Grafana asks for a panel: the expressions of the committed dashboards, with the variables put in."""

from __future__ import annotations

import json
import re
from typing import Any

from papyra_otel.grafana import files

BOARDS: dict[str, dict[str, Any]] = {
    name: json.loads(text) for name, text in files().items() if name.startswith("dashboards/")
}


def asked(
    expr: str, *, instance: str = ".+", service: str = ".+", address: str = "", bare: bool = True
) -> str:
    """Return *expr* as Grafana sends it for a panel of the whole day; if *bare*, without what stands in for no data."""
    chosen = {"$__rate_interval": "4s", "$__range": "10m", "$job": ".+", "$instance": instance}
    chosen |= {"$reason": ".+", "$actor_type": ".+", "$service": service}
    chosen["${address:regex}"] = re.sub(r"[\\^$.*+?()\[\]{}|]", r"\\\g<0>", address)  # as Grafana escapes it
    for name, value in chosen.items():
        expr = expr.replace(name, value)
    assert "$" not in expr
    return expr.replace(" or vector(0)", "") if bare else expr


def panel(uid: str, number: int) -> str:
    """Return the first expression of panel *number*."""
    (found,) = [p for p in BOARDS[f"dashboards/{uid}.json"]["panels"] if p["id"] == number]
    return str(found["targets"][0]["expr"])


def annotation(name: str) -> dict[str, Any]:
    """Return the annotation called so; all dashboards have the same."""
    every = [each for board in BOARDS.values() for each in board["annotations"]["list"]]
    same = [each for each in every if each["name"] == name]
    assert all(each == same[0] for each in same)
    assert len(same) == len(BOARDS)
    return dict(same[0])
