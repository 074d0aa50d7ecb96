"""A receiver for every test that wants one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from e2e.harness import Receiver


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.close()
