"""``papyra-otel VERB``: the reading and operating side. One module per verb; ``app`` has the table of them."""

from papyra_otel.cli.app import main

__all__ = ["main"]
