"""Who may send what to whom: what is in force always (`relay.py`), and the operator's rules.

`settings.py` is the form of rules in the configuration, `compiling.py` makes functions of them, once; `rules.py` is
the compiled form and how a list is gone through; `catalog.py` names every check and says who makes it. A session
meets all of it as guards (`mailflow.ingress.verdict`). Lists without rules are no guards and cost nothing.
"""

from mailflow.ingress.policy.relay import RELAY_DENIED, RelayControl, check_recipient, check_sender

__all__ = ["RELAY_DENIED", "RelayControl", "check_recipient", "check_sender"]
