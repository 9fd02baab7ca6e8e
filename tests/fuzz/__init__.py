"""Throws bytes at the parsers that strangers can reach: `make fuzz`, or `python -m tests.fuzz --help`."""
