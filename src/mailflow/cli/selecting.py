"""The options with which `mailflow queue` commands say which mail they mean. All commands take the same ones."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any

import click

from mailflow.cli.context import State
from mailflow.ids import parse_id

if TYPE_CHECKING:
    from mailflow.store.values import Selection

STATES = ("queued", "deferred", "held", "due")
_TRANSPORTS = ("smtp:", "lmtp:", "local:", "discard:", "error:", "pipe:")


def parse_ids(_: click.Context, __: click.Parameter, texts: tuple[str, ...]) -> tuple[int, ...]:
    """Queue ids from text; a usage error for what is none."""
    try:
        return tuple(dict.fromkeys(parse_id(text) for text in texts))
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def _age(_: click.Context, __: click.Parameter, text: str | None) -> float | None:
    from mailflow.units import parse_duration

    try:
        return None if text is None else time.time() - parse_duration(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def _size(_: click.Context, __: click.Parameter, text: str | None) -> int | None:
    from mailflow.units import parse_size

    try:
        return None if text is None else parse_size(int(text) if text.isdigit() else text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


_OPTIONS = (
    click.option(
        "--sender", metavar="ADDRESS", help="From this address; * stands for anything, '' is the null sender."
    ),
    click.option("--recipient", metavar="ADDRESS", help="To this address, now or as the client gave it; may have *."),
    click.option(
        "--destination",
        "--next-hop",
        metavar="SITE",
        help="On its way to this site: a domain, or a destination as `queue list --json` shows it; may have *.",
    ),
    click.option("--client", metavar="CLIENT", help="From the client with this address, name or login; may have *."),
    click.option("--older", "before", metavar="AGE", callback=_age, help="In the queue for at least so long: 2d, 90m."),
    click.option("--newer", "after", metavar="AGE", callback=_age, help="In the queue for at most so long."),
    click.option("--larger", metavar="SIZE", callback=_size, help="At least so large: 100KiB, 5MB, or bytes."),
    click.option("--smaller", metavar="SIZE", callback=_size, help="At most so large."),
    click.option("--state", type=click.Choice(STATES), help="queued: not tried yet; due: its time has come."),
    click.option("--reason", metavar="TEXT", help="The last failure's text has this in it; may have *."),
)


def selecting(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options; the command gets those that were given in the dictionary `where`."""

    @wraps(command)
    def with_where(*arguments: Any, **options: Any) -> Any:
        names = (
            "sender",
            "recipient",
            "destination",
            "client",
            "before",
            "after",
            "larger",
            "smaller",
            "state",
            "reason",
        )
        given = {name: options.pop(name) for name in names}
        where = {name: value for name, value in given.items() if value is not None}
        if where.get("sender") == "<>":
            where["sender"] = ""
        return command(*arguments, where=where, **options)

    wrapped: Callable[..., Any] = with_where
    for option in reversed(_OPTIONS):
        wrapped = option(wrapped)
    return wrapped


def selection(state: State, where: dict[str, Any], ids: tuple[int, ...] = (), limit: int | None = None) -> Selection:
    """What the options mean; everything when there are none. The settings are loaded when they say where a domain's mail goes."""
    from mailflow.store.values import Selection

    if not where and not ids:
        return Selection(everything=True, limit=limit)
    where = dict(where)
    if "destination" in where:
        _to_site(state, where)
    return Selection(ids=ids or None, limit=limit, **where)


def _to_site(state: State, where: dict[str, Any]) -> None:
    """A domain's mail: where it goes, and when that is a relay host for many, only what is for this domain."""
    name = where["destination"]
    if name.startswith(_TRANSPORTS):
        return
    if "*" in name:
        where["destination"] = f"*:{name}"
        return
    where["destination"] = destination_of(state, name)
    if where["destination"] != f"smtp:{name}" and not name.startswith("[") and "recipient" not in where:
        where["recipient"] = f"*@{name}"


def destination_of(state: State, name: str) -> str:
    """The destination of mail for a domain: "smtp:example.org"; a host in brackets is one itself."""
    if name.startswith(_TRANSPORTS):
        return name
    if name.startswith("["):
        return f"smtp:{name}"
    settings = state.load()
    from mailflow.envelope import Route
    from mailflow.rewrite import Resolver

    resolver = Resolver(settings.local, settings.relay, settings.route, hostname=settings.hostname)
    route = resolver.resolve(f"postmaster@{name}")
    return route.destination if isinstance(route, Route) and route.transport == "smtp" else f"smtp:{name}"
