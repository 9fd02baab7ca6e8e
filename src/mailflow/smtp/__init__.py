"""The SMTP protocol without I/O: bytes in, decisions and bytes out. Knows no sockets, clocks or queue."""
