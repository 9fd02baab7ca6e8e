"""Decisions outside of a hook class: what `[[policy_hook]]` functions may answer besides verdicts. Pure."""

from __future__ import annotations

from mailflow.hooks.decisions import Accept, Discard, Hold, Refusal
from mailflow.ingress.verdict import Action, Verdict


def plain(found: object) -> object:
    """The verdict that a decision stands for, None for none; what is no decision, or an edit, comes back as it is."""
    match found:
        case Accept():
            return None
        case Refusal(reply):
            return Verdict(Action.CLOSE if reply.code == 421 else Action.REFUSE, reply)
        case Discard():
            return Verdict(Action.DISCARD)
        case Hold(reason):
            return Verdict(Action.HOLD, reason=reason)
        case _:
            return found
