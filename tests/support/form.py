"""Which form of mailflow is under test."""

from __future__ import annotations

import mailflow.settle

COMPILED = not str(mailflow.settle.__file__).endswith(".py")
"""Whether it is the compiled one (`make test-compiled`, docs/compiled.md)."""
