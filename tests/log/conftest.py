"""What holds for some of the tests of the log."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from papyra_otel.log.file import scan

ALONE = {"test_every_syscall", "test_model", "test_recover"}


@pytest.fixture(scope="module", autouse=True)
def nobody_is_being_born(request: pytest.FixtureRequest) -> Iterator[None]:
    """Let scans not wait where nobody else can be making a file: thousands of these tests leave one half-made."""
    with pytest.MonkeyPatch.context() as patched:
        if request.module.__name__.rpartition(".")[2] in ALONE:
            patched.setattr(scan, "BIRTH_SECONDS", 0.0)
        yield
