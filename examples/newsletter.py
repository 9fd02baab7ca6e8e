"""A newsletter server: editors log in and send to news@lists.example.org; every subscriber gets a copy from the list.

Without TLS logins are taken from this machine only; a server that others reach has certificates in `tls`.

usage: python newsletter.py SPOOL LISTEN NEXT_HOP      such as: python newsletter.py spool 127.0.0.1:2525 "[127.0.0.1]:25"
"""

import asyncio
import hmac
import sys

from mailflow import Mailflow, Settings
from mailflow.hooks import Edited, Hooks, reject

EDITORS = {"ann": "correct horse battery staple"}
LIST = "news@lists.example.org"
SUBSCRIBERS = ["bob@example.net", "carol@example.com"]


async def authenticate(login, password):
    return hmac.compare_digest(EDITORS.get(login, "").encode(), password.encode())


class Newsletter(Hooks):
    async def on_mail(self, envelope):
        if not envelope.client.login:
            return reject("Log in first", code=530, status="5.7.0")

    async def on_rcpt(self, envelope, recipient):
        if recipient != LIST:
            return reject("This server is for the newsletter")
        return Edited(recipients=SUBSCRIBERS)

    async def on_data(self, envelope, content):
        return Edited(sender="bounces@lists.example.org", add_headers=[("List-Id", f"<{LIST.replace('@', '.')}>")])


async def main(spool: str, listen: str, next_hop: str) -> None:
    settings = Settings(
        hostname="lists.example.org",
        spool=spool,
        listener=[{"bind": listen}],
        relay={"host": next_hop, "networks": []},
        auth={"allow_plaintext": ["127.0.0.0/8"]},
        control={"enabled": False},
    )
    async with Mailflow(settings, hooks=Newsletter(), authenticate=authenticate) as mta:
        print("listening on", *mta.addresses, flush=True)
        receipt = await mta.send(
            f"From: {LIST}\nTo: ann@example.org\nSubject: The newsletter server has started\n\n".encode(),
            sender="bounces@lists.example.org",
            recipients=["ann@example.org"],
        )
        print("delivered", (await receipt.wait(timeout=60)).ok, flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
