"""What the queue stands on: SQLite, one writer thread, content files for the largest messages."""
