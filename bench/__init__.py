"""Measurements of mailflow, beside Postfix where that is installed; `python -m bench`."""
