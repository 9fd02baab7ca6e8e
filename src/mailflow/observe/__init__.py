"""What operators see: the event log."""
