"""What the outages share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest

from redislog.outages.harness import Runs


@pytest.fixture
def runs() -> Iterator[Runs]:
    """Make runs that end with the test."""
    with closing(Runs()) as made:
        yield made
