"""Crash safety of the whole server: it is killed, lied to, starved and damaged, and the mail is counted.

`make torture` (`python -m tests.torture --help`) runs every case at length and prints one table; `test_cases.py` runs
a short form of each with the other tests. A case is a function in one of the `cases_*` modules, listed in `cases.py`.
What every case demands is in `ledger.py`; `disk.c` and `power.py` are the disk that forgets what was not synced.
"""
