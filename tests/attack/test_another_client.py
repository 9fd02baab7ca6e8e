"""A trusted proxy presents a stranger: nothing of the proxy's own standing may count for him."""

from __future__ import annotations

import pytest

from mailflow.envelope import Peer
from mailflow.ingress.policy.relay import RelayControl
from tests.ingress.fakes import RELAY
from tests.ingress.test_services import Talk

FAR = "MAIL FROM:<a@x.test>\nRCPT TO:<b@elsewhere.test>\n"
DENIED = "554 5.7.1 Relay access denied"


@pytest.mark.parametrize("trusted", [False, True])
@pytest.mark.parametrize("words", ["ADDR=192.0.2.7", "ADDR=[UNAVAILABLE]", "NAME=spike.test ADDR=IPV6:2001:db8::1"])
def test_a_login_is_not_handed_on_by_xclient(words, trusted):
    """A proxy that has logged in itself, or has presented somebody with a login, then presents a stranger."""
    talk = Talk(trusted=trusted)
    talk.say("EHLO proxy.test\n")
    talk.session.identify(login="proxy")
    assert talk.say(FAR + "RSET\n")[1] == "250 2.1.5 Ok"
    talk.say(f"XCLIENT {words}\n")
    assert talk.say("EHLO spike.test\n" + FAR)[-1] == DENIED
    talk.say("RSET\nXCLIENT ADDR=192.0.2.8 LOGIN=jo\n")
    assert talk.say("EHLO jo.test\n" + FAR)[-1] == "250 2.1.5 Ok"
    talk.say(f"RSET\nXCLIENT {words}\n")
    assert talk.say("EHLO spike.test\n" + FAR)[-1] == DENIED


def test_a_login_and_an_address_may_come_in_two_commands():
    talk = Talk(trusted=False)
    talk.say("EHLO proxy.test\nXCLIENT ADDR=192.0.2.8\nXCLIENT LOGIN=jo NAME=jo.test\n")
    assert talk.say("EHLO jo.test\n" + FAR)[-1] == "250 2.1.5 Ok"


def test_a_listener_for_the_right_clients_does_not_trust_those_that_a_proxy_speaks_for():
    control = RelayControl(RELAY.networks, everyone=True)
    assert control.trusts("")
    assert control.admits(Peer(""))
    assert control.admits(Peer("192.0.2.7"))
    assert not control.admits(Peer("192.0.2.7", via="127.0.0.1"))
    assert control.admits(Peer("127.0.0.9", via="127.0.0.1"))
    assert control.admits(Peer("192.0.2.7", via="127.0.0.1", login="jo"))


def test_what_was_forwarded_in_the_clear_is_forgotten_with_tls():
    talk = Talk()
    talk.say("EHLO f.test\nXFORWARD NAME=spike.test ADDR=192.0.2.7\n")
    talk.session.identify(helo="", protocol="SMTP", login="", tls="TLSv1.3")
    assert talk.envelope("MAIL FROM:<a@me.test>").peer.address == "127.0.0.1"
