"""Every test fails that lets our code emit something which the registry does not have, or has otherwise.

Loaded by conftest.py. What programs in processes of their own emitted is looked at where tests read it
(``e2e.harness``). Tests that measure are left alone.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from registry.live import Seen, watch

SEEN = Seen()


@pytest.fixture(autouse=True)
def _nothing_unregistered(request: pytest.FixtureRequest) -> Iterator[None]:
    if request.node.get_closest_marker("bench") is not None:
        yield
        return
    unwatch = watch(SEEN)
    try:
        yield
    finally:
        unwatch()
        problems, SEEN.problems = SEEN.problems, []
    assert problems == [], "see docs/decisions/0055"
