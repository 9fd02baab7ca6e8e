"""Delivery: from a scheduled job to facts about what happened.

`request.py` holds what agents are given and give back; `trouble.py` alone judges the facts; one file
or folder an agent. Agents touch the network and mailboxes, never the queue.
"""
