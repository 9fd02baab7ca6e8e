"""What tests of the queue share."""

from __future__ import annotations

import pytest

from tests.queue import helpers


@pytest.fixture
def tables_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Queues of `with_queue` have no redo log: what is acknowledged is in the tables."""
    monkeypatch.setattr(helpers, "DEFAULTS", {"redo_log": 0})
