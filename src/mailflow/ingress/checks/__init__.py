"""What others say about a client: block and allow lists, greylisting, policy servers, and a program's own function."""
