"""mailflow: a mail transfer agent in one Python process."""
