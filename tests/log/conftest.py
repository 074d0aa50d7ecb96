"""The contract's tests are in the package, not here: let pytest show what their assertions compared."""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite("papyra_otel.testing")
