"""Whatever the rules say, a stranger does not relay, unless a rule says just that; and one classification decides."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mailflow.envelope import Route
from mailflow.errors import ConfigError
from mailflow.ingress.policy.catalog import CATALOG
from mailflow.ingress.policy.compiling import Policy, parts_of
from mailflow.ingress.policy.relay import RelayControl
from mailflow.ingress.policy.settings import PolicySettings, RuleSettings
from mailflow.ingress.verdict import Action, Verdict
from mailflow.rewrite import Resolver
from mailflow.route_settings import LocalSettings, RelaySettings, RouteSettings
from mailflow.settings import Settings
from mailflow.smtp.reply import reply
from mailflow.tables.kinds import make
from tests.policy.play import FRIEND, RELAY, STRANGER, TEMPORARY, FakeDns, answer, play, recipients

FAR = "x@far.test"
DENIED = "554 5.7.1 Relay access denied"

# Names that lead to us in every way that strangers control.
DNS = {
    "mx there.test": [(10, "mx.there.test"), (20, "mx.here.test")],
    "mx far.test": [(10, "mx.far.test"), (20, "mx.here.test")],
    "a mx.far.test": [STRANGER],
    f"ptr {STRANGER}": ["mx.there.test"],
    "a mx.there.test": [STRANGER],
    "mx slow.test": TEMPORARY,
}
TABLE = make(
    "text", [(key, "OK", 0) for key in (STRANGER, "there.test", "far.test", FAR, "mx.there.test", "<>", "ab:cd")]
)

VERDICTS = st.sampled_from(
    [
        None,
        Verdict(Action.PERMIT),
        Verdict(Action.HEADER, header=b"X: y\r\n"),
        Verdict(Action.HOLD, reason="x"),
        Verdict(Action.DISCARD),
        Verdict(Action.REFUSE, reply(450, "4.7.1", "x")),
    ]
)
CHECKS = sorted(
    f"{name} t" if kind.argument == "table" else f"{name} x" if kind.argument else name
    for name, kind in CATALOG.items()
)
CONDITIONS = st.fixed_dictionaries(
    {},
    optional={
        "client": st.sampled_from([["*"], ["!10.0.0.0/8"], ["192.0.2.0/24"], [".test"], ["table:t"]]),
        "sender": st.sampled_from([["*"], ["there.test"], ["<>"], ["!nobody.test"]]),
        "recipient": st.sampled_from([["*"], ["far.test"], ["table:t"]]),
        "trusted": st.booleans(),
        "mode": st.sampled_from(["enforce", "soft-fail", "log-only"]),
    },
)
ACTIONS = st.one_of(
    st.sampled_from(["permit", "reject", "defer", "discard", "hold", "warn"]).map(lambda action: {"action": action}),
    st.sampled_from(CHECKS).map(lambda check: {"check": check}),
)
RULES = st.lists(st.builds(lambda a, b: RuleSettings(**a, **b), CONDITIONS, ACTIONS), max_size=5)
POLICIES = st.builds(
    lambda delay, **lists: PolicySettings(delay=delay, **lists),
    st.booleans(),
    **dict.fromkeys(("connect", "helo", "mail", "rcpt", "data", "end"), RULES),
)


@settings(max_examples=300, deadline=None)
@given(
    policy=POLICIES,
    verdict=VERDICTS,
    sender=st.sampled_from(["joe@there.test", "", "alice@here.test", FAR]),
    to=st.sampled_from(
        [FAR, "x%far.test@backup.test", "far.test!x@backup.test", "x@sub.backup.test", '"x@far.test"@backup.test']
    ),
)
@example(PolicySettings(rcpt=[{"action": "permit"}]), Verdict(Action.PERMIT), "joe@there.test", FAR)
def test_no_rules_make_an_open_relay(policy, verdict, sender, to):
    def others(_name, _argument, _stage):
        return lambda _: verdict

    parts = parts_of(policy, RELAY.networks, ["mx.here.test"], recipients(), FakeDns(DNS), {"t": TABLE})
    outcome = play("", STRANGER, to, sender=sender, policy=Policy(parts, others), dns=FakeDns(DNS))
    assert outcome.answer.code >= 400
    assert outcome.envelope is None


def test_permit_relay_lets_those_relay_that_it_names():
    text = '[[policy.rcpt]]\nname = "partners"\nclient = ["192.0.2.0/24"]\naction = "permit_relay"\n'
    assert answer(text, STRANGER, FAR) == "250 2.0.0 Ok"
    assert answer(text, "198.51.100.1", FAR) == DENIED
    assert play(text, "198.51.100.1", FAR).decided_by == "reject_unauth_destination"
    # For one recipient and not for the next.
    one = '[[policy.rcpt]]\nrecipient = ["x@far.test"]\naction = "permit_relay"\n'
    assert answer(one, STRANGER, FAR, "y@far.test") == DENIED
    assert answer(one, STRANGER, "y@far.test", FAR) == DENIED
    log_only = text + 'mode = "log-only"\n'
    assert answer(log_only, STRANGER, FAR) == DENIED
    assert answer("[[policy.rcpt]]\naction = 'reject'\nclient = ['192.0.2.7']\n" + text, STRANGER, FAR).startswith(
        "554 5.7.1 Access"
    )


OPEN = [
    {},
    {"client": ["*"]},
    {"client": ["0.0.0.0/0"]},
    {"client": ["192.0.2.0/24", "::/0"]},
    {"client": ["!192.0.2.0/24"]},
    {"sender": ["joe@there.test"]},
    {"helo": ["mx.there.test"]},
    {"recipient": ["*"]},
    {"login": ["!*"]},
    {"tls": True},
    {"trusted": False},
]


@pytest.mark.parametrize("conditions", OPEN)
def test_permit_relay_for_everybody_is_a_mistake(conditions):
    with pytest.raises(ConfigError, match="open relay"):
        Settings(hostname="mx.here.test", policy={"rcpt": [{**conditions, "action": "permit_relay"}]}).verify()


@pytest.mark.parametrize(
    "conditions",
    [{"client": ["192.0.2.0/24"]}, {"client": [".partner.test"]}, {"login": ["joe"]}, {"recipient": ["far.test"]}],
)
def test_permit_relay_for_some_is_none(conditions):
    Settings(hostname="mx.here.test", policy={"rcpt": [{**conditions, "action": "permit_relay"}]}).verify()


def test_source_routes_are_not_relayed_for_strangers():
    for to in ("x%far.test@backup.test", "far.test!x@backup.test", '"x@far.test"@backup.test'):
        assert answer("", STRANGER, to) == DENIED
        assert answer("", FRIEND, to) == "250 2.0.0 Ok"
    assert answer("", STRANGER, "x@backup.test") == "250 2.0.0 Ok"


DOMAINS = ["a.test", "b.test", "sub.a.test", "c.test"]
ADDRESSES = [f"{user}@{domain}" for user in ("alice", "nobody") for domain in DOMAINS]


@settings(max_examples=200, deadline=None)
@given(
    local=st.sets(st.sampled_from(DOMAINS)),
    relay=st.sets(st.sampled_from(DOMAINS)),
    routes=st.lists(
        st.builds(
            RouteSettings,
            match=st.sampled_from([*DOMAINS, ".a.test", "*", *ADDRESSES]),
            transport=st.sampled_from(["smtp", "local", "discard", "error"]),
        ),
        max_size=3,
    ),
    address=st.sampled_from(ADDRESSES),
)
def test_ingress_and_routing_agree_on_what_is_ours(local, relay, routes, address):
    settings = LocalSettings(domains=sorted(local), users=["alice"])
    resolver = Resolver(settings, RelaySettings(domains=sorted(relay)), routes, hostname="mx.test")
    route = resolver.resolve(address)
    parts = parts_of(PolicySettings(), [], [], resolver, FakeDns(), {})
    outcome = play("", STRANGER, address, policy=Policy(parts), routing=resolver)
    if not isinstance(route, Route):
        assert outcome.answer.code == route.code
        return
    assert (outcome.answer.code == 250) == (route.kind != "remote") == resolver.is_ours(address)
    assert route.kind == "local" or route.transport != "local"


def test_the_networks_of_a_relay_control_are_those_of_the_settings():
    assert RelayControl(RELAY.networks).trusts(FRIEND)
    assert not RelayControl(RELAY.networks).trusts(STRANGER)


def test_mistakes_name_the_key(tmp_path):
    file = tmp_path / "m.toml"
    file.write_text(
        'hostname = "mx.here.test"\n[policy]\nrcpt = ["reject_unknown_sender_domian", "check_client_access nowhere"]\n'
        '[[policy.data]]\naction = "reject"\ncheck = "permit_mynetworks"\n'
        '[[policy.end]]\nclient = ["table:no"]\naction = "hold"\n[[policy.connect]]\nrecipient = ["a@b.test"]\naction = "permit"\n'
    )
    with pytest.raises(ConfigError) as error:
        Settings.load(file)
    told = [(p.line, p.key, p.message) for p in error.value.problems]
    assert told == [
        (3, "policy.rcpt[0].check", 'there is no check "reject_unknown_sender_domian"'),
        (3, "policy.rcpt[1].check", "there is no [table.nowhere]"),
        (6, "policy.data[0].check", "a rule has an action or a check, not both"),
        (8, "policy.end[0].client", "there is no [table.no]"),
    ]
    assert error.value.problems[0].accepted == '"reject_unknown_sender_domain"'


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('delay = false\nconnect = [{ sender = ["a@b.test"], action = "reject" }]', "not known yet"),
        ('delay = false\nhelo = ["reject_unknown_sender_domain"]', "nothing to look at"),
        ('delay = false\nhelo = ["hold"]', "no message to hold"),
        ('data = ["permit_mx_backup"]', "decides about a recipient"),
        ('rcpt = ["permit_mynetworks x"]', "takes no argument"),
        ('rcpt = ["check_client_access"]', "takes a table"),
        ('rcpt = ["greylist"]', "greylist"),
        ('rcpt = ["reject_dnsbl"]', "no list"),
        ('rcpt = ["check_policy_service"]', "policy_service"),
        ('rcpt = ["reject_rbl_client zen.example.org"]', r"\[\[dnsbl.list\]\]"),
        ('rcpt = [{ client = ["!192.0.2.1/24"], action = "reject" }]', "is not a network"),
        ("rcpt = [{}]", "this one has none"),
        ('rcpt = [{ action = "reject", reply = "250 Ok\\u0007" }]', "not a reply"),
        ('rcpt = [{ action = "reject", reply = "450 5.7.1 x" }]', "not a reply"),
        ('rcpt = [{ action = "destroy" }]', "not one of the choices"),
    ],
)
def test_more_mistakes(tmp_path, text, words):
    file = tmp_path / "m.toml"
    file.write_text(f'hostname = "mx.here.test"\n[policy]\n{text}\n')
    with pytest.raises(ConfigError, match=words):
        Settings.load(file)


def test_a_listener_names_a_set_that_is_there(tmp_path):
    file = tmp_path / "m.toml"
    text = 'hostname = "mx.here.test"\n[[listener]]\nbind = "127.0.0.1:0"\npolicy = "{}"\n[policy.set.inside]\nrcpt = ["reject"]\n'
    for name in ("inside", "submission", ""):
        file.write_text(text.format(name))
        Settings.load(file)
    file.write_text(text.format("outside"))
    with pytest.raises(ConfigError, match="outside"):
        Settings.load(file)
