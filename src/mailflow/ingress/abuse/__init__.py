"""Abuse control: what becomes of clients that ask for too much or do not behave.

`conduct.py` judges what a client does (offences), `guard.py` how much it asks for (rates), `stress.py` who is let in
when nearly all sessions are taken, `pace.py` who is too slow. The rest is what they stand on: `foreign.py` recognises
other protocols, `rates.py` counts, `networks.py` knows clients and their networks, `memory.py` bounds what is remembered.
"""
