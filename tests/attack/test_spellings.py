"""One mailbox has many spellings; what the operator has said of it counts for all of them."""

from __future__ import annotations

import pytest

from mailflow.ingress.auth.senders import Owners, SenderLogins
from mailflow.ingress.stage import Stage
from mailflow.ingress.verdict import Verdict
from mailflow.smtp.address import parse_address, parse_path
from tests.ingress.test_services import Talk
from tests.policy.play import FakeDns, answer

SPELLINGS = ['"alice"@example.test', r'"\alice"@example.test', r'"al\i\c\e"@example.test']


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_quoting_that_is_not_needed_is_undone(spelling):
    assert parse_path(f"<{spelling}> SIZE=1") == ("alice@example.test", "SIZE=1")
    assert parse_address(spelling) == "alice@example.test"
    assert parse_address(spelling.partition("@")[0]) == "alice"


@pytest.mark.parametrize(
    ("written", "plain"),
    [
        (r'"a\ b"@x.test', '"a b"@x.test'),
        (r'"a\"b\\"@x.test', r'"a\"b\\"@x.test'),
        ('""@x.test', '""@x.test'),
        ('"a..b"@x.test', '"a..b"@x.test'),
        ('"a@b"@x.test', '"a@b"@x.test'),
        ('"a@b"', '"a@b"'),
        ('"é"@x.test', "é@x.test"),
    ],
)
def test_quoting_that_is_needed_stays_and_has_one_form(written, plain):
    assert parse_address(written) == plain
    assert parse_address(plain) == plain


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_table_that_refuses_a_recipient_refuses_its_other_spellings(spelling):
    """The session hears what the protocol core has read."""
    talk = Talk(trusted=False)
    talk.say(f"EHLO me.test\nMAIL FROM:<a@me.test>\nRCPT TO:<{spelling}>\n")
    assert [each.address for each in talk.session.recipients] == ["alice@example.test"]


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_nobody_takes_anothers_sender_by_quoting_it(spelling):
    ask = SenderLogins(Owners({"alice@example.test": ["alice"]}), "everybody").at(Stage.MAIL)
    talk = Talk(trusted=False)
    talk.say(f"EHLO me.test\nMAIL FROM:<{spelling}>\n")
    assert isinstance(ask(talk.session), Verdict)


def test_a_backup_for_others_does_not_follow_source_routes():
    """The primary host may trust its backup, and would relay for a stranger (Postfix: allow_untrusted_routing)."""
    text = '[policy]\nrcpt = ["permit_mx_backup"]\nbackup_mx_networks = ["198.51.100.0/24"]\n'
    dns = {"mx far.test": [(10, "mx.far.test"), (20, "mx.here.test")], "a mx.far.test": ["198.51.100.1"]}
    assert answer(text, "192.0.2.7", "x@far.test", dns=FakeDns(dns)) == "250 2.0.0 Ok"
    for to in ("x%evil.test@far.test", "evil.test!x@far.test", '"x@evil.test"@far.test'):
        assert answer(text, "192.0.2.7", to, dns=FakeDns(dns)) == "554 5.7.1 Relay access denied"
