"""The switchboard: every rule, the order of the rules, and what the answer says about itself."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from mailflow.envelope import Route
from mailflow.rewrite import Refusal, Resolver
from mailflow.route_settings import LocalSettings, RelaySettings, RouteSettings


def resolver(*routes: dict[str, str], relay: str | None = None, **local: object) -> Resolver:
    local = {"domains": ["Example.test"], "users": ["alice", "Bob"], **local}
    return Resolver(
        LocalSettings(**local),
        RelaySettings(host=relay, domains=["backup.test"]),
        [RouteSettings(**r) for r in routes],
        hostname="mx.example.test",
        origin=lambda key: f"mailflow.toml:{key}",
    )


@pytest.mark.parametrize(
    ("address", "transport", "next_hop", "why"),
    [
        ("alice@example.test", "local", "alice", "local.domains"),
        ("ALICE@EXAMPLE.TEST", "local", "alice", "local.domains"),
        ("bob@example.test", "local", "Bob", "local.domains"),
        ('"alice"@example.test', "local", "alice", "local.domains"),
        ("alice", "local", "alice", "local.domains"),
        ("postmaster", "local", "alice", "local.domains"),
        ("PostMaster@example.test", "local", "alice", "local.domains"),
        ("joe@far.example", "smtp", "far.example", "MX"),
        ("joe@[192.0.2.1]", "smtp", "[192.0.2.1]", "MX"),
        ("a@b@far.example", "smtp", "far.example", "MX"),
    ],
)
def test_without_routes(address: str, transport: str, next_hop: str, why: str) -> None:
    route = resolver().resolve(address)
    assert isinstance(route, Route)
    assert (route.transport, route.next_hop) == (transport, next_hop)
    assert why in route.why


@pytest.mark.wish(5)
def test_an_unknown_user_of_ours_is_refused() -> None:
    refusal = resolver().resolve("carol@example.test")
    assert refusal == Refusal(
        550, "5.1.1", "No such user", "local.domains, mailflow.toml:local.domains; not in local.users"
    )


def test_the_first_route_decides_and_says_so() -> None:
    r = resolver(
        {"match": "vip@slow.example", "transport": "discard"},
        {"match": "slow.example", "next_hop": "[127.0.0.2]:2527"},
        {"match": ".slow.example", "next_hop": "sub.example"},
        {"match": "closed.example", "transport": "error", "next_hop": "Moved away"},
        {"match": "carol@far.example", "transport": "local"},
        relay="[127.0.0.1]:2526",
    )
    seen = {a: r.resolve(a) for a in ("VIP@slow.example", "x@slow.example", "x@a.b.slow.example", "x@notslow.example")}
    assert [(x.transport, x.next_hop) for x in seen.values()] == [
        ("discard", "slow.example"),
        ("smtp", "[127.0.0.2]:2527"),
        ("smtp", "sub.example"),
        ("smtp", "[127.0.0.1]:2526"),
    ]
    assert seen["x@slow.example"].why == "route 2 (slow.example), mailflow.toml:route[1].match"
    assert r.resolve("x@closed.example") == Refusal(
        550, "5.1.2", "Moved away", "route 4 (closed.example), mailflow.toml:route[3].match"
    )
    assert isinstance(r.resolve("carol@far.example"), Refusal)


def test_a_relay_host_takes_what_is_not_ours() -> None:
    r = resolver(relay="[::1]:2526")
    assert r.resolve("joe@far.example").next_hop == "[::1]:2526"
    assert r.resolve("alice@example.test").transport == "local"


def test_ours_are_local_and_relay_domains_only() -> None:
    r = resolver({"match": "far.example", "next_hop": "hub.example"})
    ours = {a: r.is_ours(a) for a in ("x@example.TEST", "x@backup.test", "x@far.example", "x@sub.backup.test", "x")}
    assert list(ours.values()) == [True, True, False, False, True]


@pytest.mark.parametrize("pattern", ["", "a b", "x@y z"])
def test_a_pattern_that_matches_nothing_is_refused(pattern: str) -> None:
    with pytest.raises(ValidationError, match="accepted"):
        RouteSettings(match=pattern)


def test_a_next_hop_is_checked_when_it_is_loaded() -> None:
    with pytest.raises(ValidationError, match="host and port"):
        RouteSettings(match="a.example", next_hop="host:99999")


@given(st.text(max_size=80))
def test_any_text_gets_an_answer_and_the_same_again(address: str) -> None:
    r = resolver({"match": "x@slow.example", "transport": "discard"})
    assert r.resolve(address) == r.resolve(address)
