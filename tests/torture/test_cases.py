"""The short form of every case of `make torture`; each failure names the seed that repeats it."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

import pytest

from tests.torture.cases import CASES, Case

SEED = int(os.environ.get("MAILFLOW_TORTURE_SEED", "0")) or secrets.randbelow(10**9)


@pytest.mark.timeout(240)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_what_was_promised_is_kept(case: Case, tmp_path: Path) -> None:
    print(f"MAILFLOW_TORTURE_SEED={SEED}")
    row = case.run(tmp_path / "case", SEED, case.short)
    assert row.lost == row.partial == 0
    assert row.rounds > 0
