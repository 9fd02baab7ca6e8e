"""What becomes of clients that do not behave: that talk out of turn, ignore errors, or speak another protocol.

The core notices (`smtp.handler.Offence`), the session asks here, and the settings say what follows: nothing, a line in
the log, a pause, or the end of the session. Every offence counts as an error in the client's rates. Lines in the log
are bounded (`notices.py`). What is known of a session is its number of offences; all else is per client and bounded.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from mailflow.ingress.abuse.foreign import HARMLESS, classify
from mailflow.ingress.abuse.guard import RateGuard
from mailflow.ingress.abuse.networks import Keys
from mailflow.ingress.abuse.notices import Notices
from mailflow.ingress.abuse.pace import Paces
from mailflow.ingress.abuse.settings import AbuseSettings
from mailflow.ingress.abuse.stress import Stress
from mailflow.ingress.verdict import Situation
from mailflow.smtp.handler import Offence
from mailflow.smtp.replies import WRONG_PROTOCOL
from mailflow.smtp.reply import Reply, reply

TOO_EARLY = reply(421, "4.7.0", "Protocol error: you do not wait for our replies")
NOT_HEEDED = reply(421, "4.7.0", "Protocol error: you do not heed our replies")
PLAINTEXT_PORT = reply(421, "4.7.0", "TLS on a plaintext port: use STARTTLS, or the port for TLS")

FIRST_WORD_BYTES = 4
SHOWN_BYTES = 48
"""How much of strange input the log shows."""


class Offender(Situation, Protocol):
    """A session that is judged."""

    offences: int

    def slow_down(self, seconds: float) -> None:
        """Read no more for so long."""
        ...


class Conduct:
    """The judge of one server's clients."""

    def __init__(self, settings: AbuseSettings, rates: RateGuard, stress: Stress, clock: Callable[[], float]) -> None:
        """`clock`: seconds that never go back."""
        self._settings = settings
        self._rates = rates
        self._clock = clock
        self._forbidden = frozenset(word.upper().encode() for word in settings.forbidden_commands)
        self._consequences = {
            Offence.EARLY: (settings.early_talk, TOO_EARLY),
            Offence.AHEAD: (settings.pipelining, TOO_EARLY),
            Offence.DEAF: (settings.ignored_errors, NOT_HEEDED),
            Offence.STRANGE: (settings.non_smtp, WRONG_PROTOCOL),
        }
        self.notices: Notices = rates.notices
        self.stress = stress
        self.paces = Paces(settings)
        self.network: Callable[[str], int | None] = Keys(settings.ipv4_prefix, settings.ipv6_prefix).network
        """The network of an address, as a key."""

    def __repr__(self) -> str:
        return f"<Conduct {self.stress} {self._rates}>"

    # What the session asks and tells

    def offended(self, who: Offender, offence: Offence, data: bytes) -> Reply | None:
        """Judges an offence; a 421 ends the session. See `Handler.offended`."""
        kind = self.kind(data) if offence is Offence.STRANGE or offence is Offence.EARLY else ""
        if kind:
            offence = Offence.STRANGE
        elif offence is Offence.STRANGE:
            return None
        consequence, answer = self._consequences[offence]
        if consequence == "ignore":
            return None
        who.offences += 1
        tolerated = offence is Offence.AHEAD or offence is Offence.DEAF
        if kind in HARMLESS or (tolerated and who.offences < self._settings.tolerated_offences):
            consequence = "log"
        self._rates.charge("errors", who)
        self._note(who, offence, kind, data, consequence)
        if consequence == "slow":
            who.slow_down(self._settings.delay)
        if consequence != "close":
            return None
        return PLAINTEXT_PORT if kind == "TLS" else answer

    def tolerates(self, who: Situation, limit: int) -> int:
        """How many errors the client may make where `limit` is usual: fewer under stress, unless it is known."""
        stress = self.stress
        if not stress.on or who.trusted or stress.favours(who.address):
            return limit
        return max(1, limit * stress.tolerance // 100)

    def refused(self, who: Situation, answer: Reply) -> None:
        """A command was refused."""
        self._rates.refused(who, answer)

    def takes_handshake(self, address: str, *, ours: bool) -> bool:
        """Counts a TLS handshake; False when the client has had too many. `ours`: it is in relay.networks."""
        return self._rates.takes_handshake(address, ours=ours)

    def closed(self, who: Situation) -> None:
        """The session is over."""
        if who.messages and not who.trusted:
            self.stress.learn(who.address)

    def is_news(self, kind: str, address: str) -> bool:
        """Whether a line about this client belongs into the log, as there was none of this kind within a minute."""
        return self.notices.due(kind, address, self._clock()) is not None

    def slow(self, who: Situation, why: str) -> None:
        """The client is too slow, and its session ends."""
        self._log(who, "too slow", reason=why)

    # Helpers

    def kind(self, data: bytes) -> str:
        """Which protocol this is the beginning of; "" when it may be SMTP."""
        word = data.split(None, 1)[:1]
        if word and word[0].upper() in self._forbidden:
            return classify(data) or "forbidden command"
        return classify(data) or ""

    def _note(self, who: Situation, offence: Offence, kind: str, data: bytes, consequence: str) -> None:
        reason = offence.value
        if kind == "TLS":
            reason = "TLS on a plaintext port"
        elif kind:
            reason = f"{reason}: {kind}"
        shown = {"data": show(_harmless(kind, data))} if data else {}
        self._log(who, kind or offence.value, reason=reason, action=consequence, **shown)

    def _log(self, who: Situation, kind: str, **fields: object) -> None:
        left_out = self.notices.due(kind, who.address, self._clock())
        if left_out is not None:
            more = {"left_out": left_out} if left_out else {}
            who.event("offence", 30, **fields, **more)


def _harmless(kind: str, data: bytes) -> bytes:
    """As much as tells what it is: passwords stand in AUTH, in a header ("Authorization: …") and behind a "?"."""
    if not kind:
        return data[:FIRST_WORD_BYTES]
    if kind == "message header":
        return data.partition(b":")[0] + b":"
    return data.partition(b"?")[0] if data[:1].isalpha() else data


def show(data: bytes) -> str:
    r"""The first bytes, but no more than a line of text, as is safe in a log: what is not printable ASCII as "\x16", "\r"."""
    if data[:1].isalpha():
        data = data.partition(b"\r\n")[0]  # in the lines behind it a web browser says who it is
    return repr(data[:SHOWN_BYTES])[2:-1]
