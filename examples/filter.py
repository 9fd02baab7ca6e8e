"""A mail filter: looks at every message before it is accepted, and sends what passes to the mail server behind it.

usage: python filter.py SPOOL LISTEN NEXT_HOP      such as: python filter.py spool 127.0.0.1:2525 "[127.0.0.1]:25"
"""

import asyncio
import sys
from email import message_from_bytes, policy

from mailflow import Mailflow, Settings
from mailflow.hooks import Edited, Hooks, quarantine, reject

DANGEROUS = (".exe", ".js", ".scr")


class Filter(Hooks):
    async def on_mail(self, envelope):
        if envelope.sender.endswith("@junk.example"):
            return reject("No mail from there")

    async def on_data(self, envelope, content):
        message = await asyncio.to_thread(message_from_bytes, content, policy=policy.default)
        names = [part.get_filename("") for part in message.walk()]
        if any(name.lower().endswith(DANGEROUS) for name in names):
            return quarantine("a program is attached")
        return Edited(add_headers=[("X-Filter", "passed")])

    def on_queued(self, queue_id, envelope):
        print("queued", queue_id, envelope.sender, *envelope.recipients, flush=True)


async def main(spool: str, listen: str, next_hop: str) -> None:
    settings = Settings(
        hostname="filter.example.org",
        spool=spool,
        listener=[{"bind": listen}],
        relay={"host": next_hop},
        control={"enabled": False},
    )
    async with Mailflow(settings, hooks=Filter()) as mta:
        print("listening on", *mta.addresses, flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
