"""An application that takes mail itself: what arrives for ticket+NUMBER@… is added to that ticket. Nothing is queued.

The class is an ordinary aiosmtpd handler and would run on aiosmtpd's own server, too.

usage: python tickets.py SPOOL LISTEN      such as: python tickets.py spool 127.0.0.1:2525
"""

import asyncio
import sys
from email import message_from_bytes, policy

from mailflow import Mailflow, Settings

TICKETS = {"17": ["the printer is on fire"]}


def ticket_of(address):
    local, _, _domain = address.partition("@")
    name, _, number = local.partition("+")
    return TICKETS.get(number) if name == "ticket" else None


class Tickets:
    async def handle_RCPT(self, server, session, envelope, address, rcpt_options):
        if ticket_of(address) is None:
            return "550 5.1.1 There is no such ticket"
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 OK"

    async def handle_DATA(self, server, session, envelope):
        message = message_from_bytes(envelope.content, policy=policy.default)
        for address in envelope.rcpt_tos:
            ticket_of(address).append(message["Subject"])
            print("ticket", address, TICKETS, flush=True)
        return "250 2.0.0 Added to the ticket"


async def main(spool: str, listen: str) -> None:
    settings = Settings(
        hostname="tickets.example.org",
        spool=spool,
        listener=[{"bind": listen}],
        control={"enabled": False},
    )
    async with Mailflow(settings, handler=Tickets()) as mta:
        print("listening on", *mta.addresses, flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
