"""A small DNS server on 127.0.0.1 for tests: answers from a dict, counts the questions, may keep silent.

`zone` maps (name, type) to a list of dnslib RDs (with TTL `ttl`), to a response code, or to SILENT.
A name that has no entry of any type does not exist (NXDOMAIN); one without the asked type has no data.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Self

import dnslib
from dnslib import QTYPE, RCODE, RR

SILENT = "silent"


class DnsServer(asyncio.DatagramProtocol):
    def __init__(self, zone: dict, ttl: int = 300) -> None:
        self.zone = zone
        self.ttl = ttl
        self.asked: Counter = Counter()

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self.transport, _ = await loop.create_datagram_endpoint(lambda: self, local_addr=("127.0.0.1", 0))
        self.port = self.transport.get_extra_info("sockname")[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self.transport.close()

    @property
    def endpoint(self) -> str:
        return f"127.0.0.1:{self.port}"

    def datagram_received(self, data: bytes, addr: tuple) -> None:
        request = dnslib.DNSRecord.parse(data)
        name, kind = str(request.q.qname).rstrip(".").lower(), QTYPE[request.q.qtype]
        self.asked[name, kind] += 1
        answer = self.zone.get((name, kind))
        if answer == SILENT:
            return
        reply = request.reply()
        if isinstance(answer, int):
            reply.header.rcode = answer
        elif answer is not None:
            for rdata in answer:
                rtype = getattr(QTYPE, type(rdata).__name__)
                reply.add_answer(RR(name, rtype, rdata=rdata, ttl=self.ttl))
        elif not any(known == name for known, _ in self.zone):
            reply.header.rcode = RCODE.NXDOMAIN
        self.transport.sendto(reply.pack(), addr)
