"""Good mail beside bad destinations, with real sockets: the short form of `python -m bench.fairness`.

The limits are generous, because other things may run on the machine; the long form has the strict ones.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.fairness_cases import CASES, Result
from bench.moody_server import RoutedMailflow

MEDIAN_MS, WORST_MS = 500.0, 5000.0


def play(name: str, folder: Path, share: float) -> Result:
    result = CASES[name].measure(name, RoutedMailflow, folder, share)
    assert not result.error, result.error
    return result


@pytest.mark.wish(57)
@pytest.mark.parametrize(("name", "share"), [("mute-1", 0.02), ("mute-40", 0.08), ("slow-1000", 0.02)])
def test_good_mail_does_not_wait_for_bad_destinations(tmp_path: Path, name: str, share: float) -> None:
    result = play(name, tmp_path, share)
    assert len(result.delays) == result.sent
    assert result.median < MEDIAN_MS
    assert result.worst < WORST_MS


@pytest.mark.wish(47)
def test_new_and_retried_mail_keep_their_ratio_under_a_mountain_of_retries(tmp_path: Path) -> None:
    result = play("retries", tmp_path, 0.05)
    new, retried = result.figures["new"], result.figures["retried"]
    assert retried > 30
    assert 3 < new / retried < 5, "four new for each retried one, while new mail comes faster than it can go"


@pytest.mark.wish(37)
def test_single_messages_pass_a_huge_one_for_the_same_destination(tmp_path: Path) -> None:
    result = play("list", tmp_path, 0.1)
    assert len(result.delays) == result.sent
    assert result.worst < WORST_MS
