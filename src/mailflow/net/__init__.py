"""The network's edge: name service and sockets. `dns.py` is the only importer of aiodns."""
