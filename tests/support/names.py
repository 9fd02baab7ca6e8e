"""A name server on 127.0.0.1 with zones given by the test, and a count of the questions."""

from __future__ import annotations

from collections import Counter
from typing import Self

from dnslib import QTYPE, RCODE, RR, DNSRecord
from dnslib.server import BaseResolver, DNSLogger, DNSServer


class Names(BaseResolver):
    """Answers from zone text ("example.net. 60 IN MX 10 mx.example.net."); a context manager.

    Names that are not in the zone do not exist (NXDOMAIN); those in `broken` get SERVFAIL.
    """

    def __init__(self, zone: str, broken: tuple[str, ...] = ()) -> None:
        self.records = RR.fromZone(zone)
        self.broken = broken
        self.questions: Counter[tuple[str, str]] = Counter()
        self._server = DNSServer(self, address="127.0.0.1", port=0, logger=DNSLogger(log="-request,-reply,-error"))
        self.port: int = self._server.server.server_address[1]

    @property
    def nameserver(self) -> str:
        return f"127.0.0.1:{self.port}"

    def resolve(self, request: DNSRecord, handler: object) -> DNSRecord:
        del handler
        name, kind = str(request.q.qname).lower(), QTYPE[request.q.qtype]
        self.questions[name, kind] += 1
        reply = request.reply()
        known = [rr for rr in self.records if str(rr.rname).lower() == name]
        if name.rstrip(".") in self.broken:
            reply.header.rcode = RCODE.SERVFAIL
        elif not known:
            reply.header.rcode = RCODE.NXDOMAIN
        reply.add_answer(*(rr for rr in known if QTYPE[rr.rtype] == kind))
        return reply

    def __enter__(self) -> Self:
        self._server.start_thread()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop()
        self._server.server.server_close()
