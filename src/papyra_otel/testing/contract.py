"""What every log promises, as tests: subclass ``LogContract`` and give it a fixture ``make_log``.

    class TestMyLog(LogContract):
        @pytest.fixture
        def make_log(self, tmp_path):
            def make(system=None, retention=None):
                return open_log(f"my:{tmp_path}", system, retention)
            return make

Each call of ``make_log`` opens the same log again, as another process would; it is empty at first. For
failures that show values, call ``pytest.register_assert_rewrite("papyra_otel.testing")`` in your conftest.py.
"""

from __future__ import annotations

from papyra_otel.testing.log_care import CareContract
from papyra_otel.testing.log_cases import MakeLog
from papyra_otel.testing.log_reading import ReadingContract
from papyra_otel.testing.log_writing import WritingContract

__all__ = ["LogContract", "MakeLog"]


class LogContract(WritingContract, ReadingContract, CareContract):
    """The tests. Every method named ``test_...`` takes the fixture ``make_log``."""
