"""Mail coming in over SMTP: sockets, sessions, limits and policy around the pure core in `smtp/`."""
