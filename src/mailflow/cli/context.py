"""What all commands share: the options --config, --set, -v and -q, and the settings, or the server's place, that they lead to.

The options may stand before or after a command's own words. The configuration file is the one given, else MAILFLOW_CONFIG, else
`mailflow.toml` in the working directory, else /etc/mailflow/mailflow.toml, else none: then environment and defaults count.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from mailflow.cli.place import Place
    from mailflow.control.client import ControlClient
    from mailflow.settings import Settings

CONFIG_VARIABLE = "MAILFLOW_CONFIG"
CONFIG_PLACES = (Path("mailflow.toml"), Path("/etc/mailflow/mailflow.toml"))


@dataclass(slots=True)
class State:
    """The shared options, as far as they have been read."""

    config: Path | None = None
    overrides: list[str] = field(default_factory=list)
    verbosity: int = 0
    settings: Settings | None = None
    """The last ones that were loaded: they know where each value was written."""

    def file(self) -> Path | None:
        """The configuration file to use; None when there is none."""
        if self.config is not None:
            return self.config
        named = os.environ.get(CONFIG_VARIABLE)
        if named:
            return Path(named)
        return next((place for place in CONFIG_PLACES if place.is_file()), None)

    def load(self, file: Path | None = None) -> Settings:
        """The settings, of another file when one is given. Raises ConfigError."""
        if self.settings is None or file is not None:
            from mailflow.settings import Settings

            self.settings = Settings.load(file or self.file(), overrides=self.overrides)
        return self.settings

    def place(self) -> Place:
        """Where the queue and the control socket are; the settings are loaded only when it takes them. Raises ConfigError."""
        from mailflow.cli.place import Doubt, Place, find_place

        settings = self.settings
        if settings is None:
            try:
                return find_place(self.file(), os.environ, self.overrides)
            except Doubt:
                settings = self.load()
        return Place(settings.spool, settings.control_socket if settings.control.enabled else None)

    def say(self, text: str, level: int = 0) -> None:
        """A remark on standard error: 0 is left out with -q, 1 needs -v."""
        if self.verbosity >= level:
            print(text, file=sys.stderr)


def common(function: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the shared options to a command; it gets a `State` as its first argument."""

    @click.option(
        "--config", "config_", metavar="FILE", type=click.Path(path_type=Path), help="The configuration file."
    )
    @click.option(
        "--set", "set_", metavar="KEY=VALUE", multiple=True, help="Set one configuration value; may be repeated."
    )
    @click.option("-v", "--verbose", count=True, help="Say more.")
    @click.option("-q", "--quiet", is_flag=True, help="Say nothing but results and errors.")
    @click.pass_context
    @wraps(function)
    def with_state(
        ctx: click.Context,
        /,
        *arguments: Any,
        config_: Path | None,
        set_: tuple[str, ...],
        verbose: int,
        quiet: bool,
        **more: Any,
    ) -> Any:
        state = ctx.ensure_object(State)
        state.config = config_ or state.config
        state.overrides.extend(set_)
        state.verbosity += verbose - quiet
        return function(state, *arguments, **more)

    return with_state


def control_client(place: Place) -> ControlClient | None:
    """The way to the running server; None when the configuration has no control socket."""
    from mailflow.control.client import ControlClient

    return ControlClient(place.control) if place.control else None


def spool_to_read(state: State) -> Path:
    """Where the queue is; what a running server has acknowledged is where a reader finds it, if it can be asked."""
    place = state.place()
    client = control_client(place) if place.control and place.control.exists() else None
    if client is not None:
        from mailflow.control.client import ControlError, NoServer

        with suppress(ControlError, NoServer):
            client.write_out()
    return place.spool
