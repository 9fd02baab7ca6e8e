"""The checks that a rule may name, each refusing and each letting through."""

from __future__ import annotations

import pytest

from mailflow.ingress.policy.catalog import ALIASES, CATALOG, kind_of
from mailflow.ingress.policy.makers import MAKERS
from mailflow.net.dns import NullMx
from tests.policy.play import FRIEND, STRANGER, TEMPORARY, FakeDns, answer, play

OK = "250 2.0.0 Ok"


def check(name: str, stage: str = "rcpt", more: str = "") -> str:
    return f'[policy]\n{stage} = ["{name}"]\n{more}'


def then_reject(name: str, more: str = "") -> str:
    return f'[policy]\nrcpt = ["{name}", "reject"]\n{more}'


TABLE = '[table.t]\nentries = { "ab:cd" = "" }'
REFUSALS = [
    ("reject_plaintext_session", {}, {"tls": "TLSv1.3"}, "530 5.7.0"),
    ("reject_unauthenticated", {}, {"login": "joe"}, "530 5.7.0"),
    ("reject_non_fqdn_sender", {"sender": "joe@there"}, {"sender": "joe@[192.0.2.1]"}, "504 5.5.2"),
    ("reject_unqualified_sender", {"sender": "joe@there"}, {"sender": ""}, "504 5.5.2"),
    ("reject_unlisted_sender", {"sender": "nobody@here.test"}, {"sender": "bob@here.test"}, "550 5.1.0"),
    ("reject_invalid_helo_hostname", {"helo": "a b"}, {"helo": "a_b"}, "501 5.5.2"),
    ("reject_invalid_helo_hostname", {"helo": "[192.0.2.256]"}, {"helo": "[192.0.2.25]"}, "501 5.5.2"),
    ("reject_invalid_helo_hostname", {"helo": "192.0.2.1"}, {"helo": "[IPv6:2001:db8::1]"}, "501 5.5.2"),
    ("reject_non_fqdn_helo_hostname", {"helo": "localhost"}, {"helo": "[192.0.2.1]"}, "504 5.5.2"),
    ("reject_unknown_client_hostname", {"name": ""}, {"name": "x.test"}, "450 4.7.25"),
    ("reject_unknown_reverse_client_hostname", {"name": ""}, {"name": "x.test"}, "450 4.7.25"),
]


@pytest.mark.parametrize(("name", "bad", "good", "code"), REFUSALS)
def test_refusals(name, bad, good, code):
    assert answer(check(name), **bad).startswith(code)
    assert answer(check(name), **good) == OK


PERMITS = [
    ("permit_mynetworks", STRANGER, {}, FRIEND, {}),
    ("permit_sasl_authenticated", STRANGER, {}, STRANGER, {"login": "joe"}),
    ("permit_tls_all_clientcerts", STRANGER, {}, STRANGER, {"certificate": "12:34"}),
    ("permit_tls_clientcerts t", STRANGER, {"certificate": "12:34"}, STRANGER, {"certificate": "ab:cd"}),
]


@pytest.mark.parametrize(("name", "stranger", "bad", "friend", "good"), PERMITS)
def test_permits(name, stranger, bad, friend, good):
    assert answer(then_reject(name, TABLE), stranger, **bad).startswith("554")
    assert answer(then_reject(name, TABLE), friend, **good) == OK


@pytest.mark.wish(36)
def test_strangers_give_full_addresses_without_any_rule():
    assert answer("", sender="joe").startswith("504 5.5.2")
    assert answer("", STRANGER, "alice").startswith("504 5.5.2")
    assert answer("", STRANGER, "postmaster") == OK
    assert answer("", FRIEND, "alice", sender="joe") == OK
    assert answer(check("reject_unqualified_recipient"), FRIEND, "alice").startswith("504 5.5.2")
    assert answer(check("reject_unqualified_recipient"), FRIEND, "postmaster") == OK


def test_destinations():
    assert answer(check("reject_unauth_destination"), FRIEND, "x@far.test").startswith("554 5.7.1 Relay")
    assert answer(check("reject_unauth_destination"), FRIEND, "x@backup.test") == OK
    assert answer(then_reject("permit_auth_destination"), FRIEND, "x@backup.test") == OK
    assert answer(then_reject("permit_auth_destination"), FRIEND, "x@far.test").startswith("554")
    assert answer(check("reject_unlisted_recipient"), FRIEND, "nobody@here.test").startswith("550 5.1.1")


def test_many_recipients_of_a_bounce():
    to = ("alice@here.test", "bob@here.test")
    assert answer(check("reject_multi_recipient_bounce", "data"), STRANGER, *to, sender="").startswith("550 5.5.3")
    assert answer(check("reject_multi_recipient_bounce", "data"), STRANGER, *to) == OK
    assert answer(check("reject_multi_recipient_bounce", "data"), sender="") == OK


DNS = {
    "mx good.test": [(10, "mx.good.test")],
    "a only.test": ["192.0.2.9"],
    "mx null.test": NullMx("null.test"),
    "mx slow.test": TEMPORARY,
}


@pytest.mark.parametrize(
    ("domain", "sender", "recipient", "helo"),
    [
        ("good.test", OK, OK, OK),
        ("only.test", OK, OK, OK),
        ("none.test", "550 5.1.8", "550 5.1.2", "450 4.7.1"),
        ("null.test", "550 5.7.27", "556 5.1.10", "450 4.7.1"),
        ("slow.test", "450 4.1.8", "450 4.1.2", "450 4.7.1"),
    ],
)
def test_domains(domain, sender, recipient, helo):
    names = {"name": "x.test"}
    asked = check("reject_unknown_sender_domain")
    assert answer(asked, sender=f"joe@{domain}", dns=FakeDns(DNS), **names).startswith(sender)
    asked = check("reject_unknown_recipient_domain")
    assert answer(asked, FRIEND, f"joe@{domain}", dns=FakeDns(DNS), **names).startswith(recipient)
    assert answer(check("reject_unknown_helo_hostname"), helo=domain, dns=FakeDns(DNS), **names).startswith(helo)


def test_domains_that_need_no_question():
    dns = FakeDns()
    for sender in ("", "alice@here.test", "x@backup.test", "x@[192.0.2.1]"):
        assert answer(check("reject_unknown_sender_domain"), sender=sender, dns=dns, name="x.test") == OK
    assert answer(check("reject_unknown_recipient_domain"), dns=dns, name="x.test") == OK
    assert answer(check("reject_unknown_helo_hostname"), helo="[192.0.2.7]", dns=dns, name="x.test") == OK
    assert dns.asked == []


def access(name: str, key: str, value: str) -> str:
    return f'[policy]\nrcpt = ["{name} t", "defer"]\n[table.t]\nentries = {{ "{key}" = "{value}" }}'


@pytest.mark.parametrize(
    ("name", "key", "client"),
    [
        ("check_client_access", STRANGER, {}),
        ("check_client_access", "192.0.2", {}),
        ("check_client_access", ".partner.test", {"name": "mx.partner.test"}),
        ("check_reverse_client_hostname_access", "mx.partner.test", {"name": "mx.partner.test"}),
        ("check_helo_access", ".evil.test", {"helo": "mx.evil.test"}),
        ("check_sender_access", "there.test", {}),
        ("check_sender_access", "<>", {"sender": ""}),
        ("check_sasl_access", "joe", {"login": "joe"}),
        ("check_ccert_access", "ab:cd", {"certificate": "ab:cd"}),
        ("check_recipient_access", "alice@", {}),
    ],
)
def test_access_tables(name, key, client):
    assert answer(access(name, key, "OK"), **client) == OK
    assert "rejected: Access denied" in answer(access(name, key, "REJECT"), **client)
    assert answer(access(name, "other.test", "REJECT"), **client).startswith("450")


@pytest.mark.wish(29)
@pytest.mark.parametrize("key", ["x+spam@backup.test", "x@backup.test", "+spam", "x+spam@"])
def test_recipients_are_blocked_by_extension(key):
    text = access("check_recipient_access", key, "550 5.7.1 No").replace('"defer"', '"permit"')
    assert answer(text, STRANGER, "x+spam@backup.test") == "550 5.7.1 No"
    assert answer(text, STRANGER, "y@backup.test") == OK
    without = answer(text, STRANGER, "x+ham@backup.test")
    assert without == ("550 5.7.1 No" if key == "x@backup.test" else OK)


@pytest.mark.parametrize(
    ("value", "heard"),
    [
        ("DUNNO", "450 4.7.1"),
        ("ok", OK),
        ("REJECT Go away", "554 5.7.1 Go away"),
        ("DEFER Later", "450 4.7.1 Later"),
        ("550 5.7.0 Words", "550 5.7.0 Words"),
        ("421 4.7.0 Words", "421 4.7.0 Words"),
        ("WARN odd", "450 4.7.1"),
        ("RJECT", "451 4.3.5"),
        ("RELAY", "451 4.3.5"),
        ("550 4.7.1 Words", "451 4.3.5"),
        ("PREPEND no header", "451 4.3.5"),
    ],
)
def test_values_of_access_tables(value, heard):
    assert answer(access("check_sender_access", "there.test", value)).startswith(heard)


def test_values_that_mark_the_message():
    def says(value):
        return play(access("check_sender_access", "there.test", value).replace('"defer"', '"permit"'))

    assert says("HOLD looks odd").envelope.hold == "looks odd"
    assert says("PREPEND X-Odd: yes").envelope.header == b"X-Odd: yes\r\n"
    assert any(step.outcome == "discard" for step in says("DISCARD").steps)


BACKUP = 'policy.backup_mx_networks = ["192.0.2.0/24"]\n'


def backup(name: str, networks: str = BACKUP) -> str:
    return f'{networks}[[policy.rcpt]]\ncheck = "{name}"'


@pytest.mark.wish(13)
def test_a_sender_whose_domain_lists_us():
    text, dns = backup("permit_sender_backup_mx"), {"mx there.test": [(10, "mx.there.test"), (20, "mx.here.test")]}
    assert answer(text, STRANGER, "x@far.test", dns=FakeDns(dns), name="") == OK
    assert answer(text, "198.51.100.1", "x@far.test", dns=FakeDns(dns), name="").startswith("554 5.7.1 Relay")
    assert answer(backup("permit_sender_backup_mx", ""), STRANGER, "x@far.test", dns=FakeDns(dns), name="").startswith(
        "554"
    )
    by_address = {"mx there.test": [(10, "a.test")], "a a.test": ["192.0.2.25"]}
    assert answer(text, STRANGER, "x@far.test", dns=FakeDns(by_address), name="") == OK
    other = {"mx there.test": [(10, "a.test")], "a a.test": ["192.0.2.26"]}
    assert answer(text, STRANGER, "x@far.test", dns=FakeDns(other), name="").startswith("554")
    assert answer(text, STRANGER, "x@far.test", dns=FakeDns(), name="", sender="").startswith("554")


@pytest.mark.wish(13)
@pytest.mark.parametrize(
    "dns", [{"mx there.test": TEMPORARY}, {"mx there.test": [(10, "a.test")], "a a.test": TEMPORARY}]
)
def test_a_name_service_that_fails_neither_opens_the_relay_nor_loses_mail(dns):
    text = backup("permit_sender_backup_mx")
    assert answer(text, STRANGER, "x@far.test", dns=FakeDns(dns), name="").startswith("450 4.4.3")
    assert answer(text, STRANGER, dns=FakeDns(dns), name="") == OK  # ours anyway
    assert answer(text, "198.51.100.1", "x@far.test", dns=FakeDns(dns), name="").startswith("554 5.7.1 Relay")


@pytest.mark.wish(14)
def test_a_client_whose_domain_lists_us():
    text = backup("permit_client_backup_mx")
    listed = FakeDns({"mx sub.there.test": [(20, "mx.here.test")]})
    for name in ("sub.there.test", "out.sub.there.test"):
        assert answer(text, STRANGER, "x@far.test", dns=listed, name=name) == OK
    for name in ("", "there.test", "test", "sub.there.test.evil.test"):
        assert answer(text, STRANGER, "x@far.test", dns=listed, name=name).startswith("554 5.7.1 Relay")
    assert answer(text, "198.51.100.1", "x@far.test", dns=listed, name="sub.there.test").startswith("554")
    slow = FakeDns({"mx there.test": TEMPORARY})
    assert answer(text, STRANGER, "x@far.test", dns=slow, name="mx.there.test").startswith("450 4.4.3")


@pytest.mark.wish(14)
def test_the_name_comes_from_the_name_service_not_from_the_client():
    text = backup("permit_client_backup_mx")
    dns = {"mx there.test": [(20, "mx.here.test")], f"ptr {STRANGER}": ["mx.there.test"], "a mx.there.test": [STRANGER]}
    assert answer(text, STRANGER, "x@far.test", dns=FakeDns(dns)) == OK
    forged = {**dns, "a mx.there.test": ["198.51.100.9"]}
    assert answer(text, STRANGER, "x@far.test", dns=FakeDns(forged)).startswith("554 5.7.1 Relay")


def test_backup_for_destinations():
    text = backup("permit_mx_backup")
    dns = {"mx far.test": [(10, "mx.far.test"), (20, "mx.here.test")], "a mx.far.test": ["192.0.2.99"]}
    assert answer(text, "198.51.100.1", "x@far.test", dns=FakeDns(dns), name="") == OK
    assert answer(text, "198.51.100.1", "x@other.test", dns=FakeDns(dns), name="").startswith("554")
    elsewhere = {**dns, "a mx.far.test": ["203.0.113.1"]}
    assert answer(text, STRANGER, "x@far.test", dns=FakeDns(elsewhere), name="").startswith("554")
    primary = {"mx far.test": [(10, "mx.here.test"), (20, "mx.far.test")], "a mx.far.test": ["192.0.2.99"]}
    assert answer(text, STRANGER, "x@far.test", dns=FakeDns(primary), name="").startswith("554")
    slow = {**dns, "a mx.far.test": TEMPORARY}
    assert answer(text, STRANGER, "x@far.test", dns=FakeDns(slow), name="").startswith("450 4.4.3")


def test_every_check_is_made_by_somebody():
    others = {"reject_dnsbl", "permit_dnswl", "greylist", "check_policy_service", "hook"}
    assert set(MAKERS) | others == set(CATALOG)
    assert all(kind_of(alias) is CATALOG[name] for alias, name in ALIASES.items())
