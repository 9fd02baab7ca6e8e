"""`mailflow resolve ADDRESS…`: where would mail go, and which line of the configuration says so? Needs no server."""

from __future__ import annotations

import json

import click

from mailflow.cli.context import State, common


@click.command("resolve")
@click.argument("addresses", metavar="ADDRESS...", nargs=-1, required=True)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@common
def command(state: State, addresses: tuple[str, ...], as_json: bool) -> int:
    """Show transport, next hop and recipient for addresses, and why.

    The kind is local, relay (ours, its mailbox elsewhere) or remote. JSON fields: address, kind, transport, next_hop, recipient, why; for an address that is refused: address, reply, why.
    Exit code 1 when one of them is refused.
    """
    settings = state.load()
    from mailflow.rewrite import Refusal, Resolver

    resolver = Resolver(
        settings.local, settings.relay, settings.route, hostname=settings.hostname, origin=settings.origin
    )
    refused = False
    for address in addresses:
        answer = resolver.resolve(address)
        fields: dict[str, str] = {"address": address}
        if isinstance(answer, Refusal):
            refused = True
            fields |= {"reply": f"{answer.code} {answer.status} {answer.text}", "why": answer.why}
        else:
            fields |= {
                "kind": answer.kind,
                "transport": answer.transport,
                "next_hop": answer.next_hop,
                "recipient": answer.recipient,
                "why": answer.why,
            }
        _show(fields, as_json=as_json)
    return 1 if refused else 0


def _show(fields: dict[str, str], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(fields, ensure_ascii=False))
        return
    print(fields.pop("address"))
    for name, value in fields.items():
        print(f"  {name.replace('_', ' '):<9}  {value}")
