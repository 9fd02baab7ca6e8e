"""Who a client is: SASL exchanges, the places where passwords are kept, locks against guessing, and who may use which sender.

- `settings.py`: the section `[auth]`.
- `backend.py`: the interface of all back ends, and the threads that hashing runs in.
- `hashes.py`, `password_file.py`, `sql.py`, `pam.py`, `dovecot.py`, `program.py`, `oauth.py`: the back ends.
- `cache.py`, `lockout.py`: what makes the right password cheap and the wrong one dear. Pure.
- `authenticator.py`: asks the back ends, through both. `exchange.py`: one AUTH command of one session.
- `senders.py`: the guard that compares MAIL FROM with the login.

Nothing here runs, and no object is made, for a client that does not say AUTH. Mechanisms are pure: `smtp/sasl.py` and `smtp/scram.py`.
"""
