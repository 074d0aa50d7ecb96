"""Saying something to an operator: where they look first, once, in one line."""

from __future__ import annotations

import logging
import sys

__all__ = ["say"]

_logger = logging.getLogger("papyra_otel")


def say(message: str) -> None:
    """Say *message*, in one line, where an operator looks first: stderr, and the diagnostics of OTel."""
    if _logger.hasHandlers():  # without any, logging would print it on stderr a second time
        _logger.error("%s", message)
    try:
        sys.stderr.write(f"papyra-otel: {' '.join(message.split())}\n")
    except (OSError, ValueError, AttributeError):  # stderr closed or missing: logging has it
        return
