"""The SMTP agent: deliveries to other hosts over connections that are kept and reused.

Read `agent.py` (the door), then `site.py` (the connections of one destination and who gets which), `connection.py`
(one TCP connection around the client core), `job.py` (a delivery on its way, and its facts); `hosts.py` and
`connect.py` are the slow path that makes new connections; `timers.py` watches all time limits in one sweep.
"""

from mailflow.delivery.smtp.agent import SmtpAgent

__all__ = ["SmtpAgent"]
