"""Dashboards, alert rules and their routing, all made from one specification.

Names come from ``papyra_otel.semconv`` only. ``files`` is everything as text; the folder grafana/ of the repository
holds the same bytes, and ``papyra-otel dashboards export`` writes them. Nothing here is needed to record.
"""

from papyra_otel.grafana.files import files
from papyra_otel.grafana.rules import RUNBOOKS

__all__ = ["RUNBOOKS", "files"]
