"""Steering a running server: HTTP with JSON over a UNIX socket."""
