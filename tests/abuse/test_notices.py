"""Floods of offences are no floods of lines."""

from __future__ import annotations

from mailflow.ingress.abuse.notices import LINES_PER_MINUTE, Notices


def test_one_line_for_each_offence_client_and_minute() -> None:
    notices = Notices()
    assert [notices.due("HTTP", "a", second) for second in (0.0, 1.0, 59.0, 60.0, 61.0, 120.0, 180.0)] == [
        0,
        None,
        None,
        2,
        None,
        1,
        0,
    ]
    assert notices.due("HTTP", "b", 1.0) == 0
    assert notices.due("TLS", "a", 1.0) == 0


def test_a_million_clients_write_a_bounded_number_of_lines() -> None:
    notices = Notices(1000)
    lines = sum(notices.due("HTTP", client, client / 10_000) is not None for client in range(100_000))
    assert lines == LINES_PER_MINUTE
    assert notices.due("TLS", 1, 10.0) == 0
    assert notices.due("HTTP", -1, 60.1) == 0
    assert len(notices._lines) <= 1000
