"""What several folders of tests share."""

from __future__ import annotations

import os
import shutil

import pytest
from hypothesis import settings

settings.register_profile("shared machine", deadline=None, print_blob=True)  # timing is never a test
settings.load_profile("shared machine")

pytest_plugins = ["redis_servers.fixtures", "registry.plugin"]
pytest.register_assert_rewrite("papyra_otel.testing")  # the contract's tests are in the package, not here


def missing(what: str) -> None:
    """Skip, saying *what* is missing; fail instead where everything has to be there, as in CI."""
    if os.environ.get("PAPYRA_OTEL_REQUIRE_SERVICES") == "1":
        pytest.fail(f"PAPYRA_OTEL_REQUIRE_SERVICES=1, but {what}")
    pytest.skip(what)


@pytest.fixture
def unprivileged() -> list[str]:
    """What to put in front of a command so that permissions hold for it, also when root runs the tests."""
    if os.geteuid() != 0:
        return []
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        missing("there is no setpriv, and root may read and write anywhere")
    without = "-dac_override,-dac_read_search"
    return [str(setpriv), f"--inh-caps={without}", f"--bounding-set={without}"]
