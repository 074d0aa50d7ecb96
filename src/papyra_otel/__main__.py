"""``python -m papyra_otel`` is ``papyra-otel``."""

from __future__ import annotations

import sys

from papyra_otel.cli import main

if __name__ == "__main__":
    sys.exit(main())
