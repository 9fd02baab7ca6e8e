"""What the queue stands on: SQLite, one writer thread, segments for contents, content files for the largest."""
