"""The control socket's server side: HTTP with JSON over a UNIX socket that only the server's user may open.

    GET  /v1/status                                   -> {…}
    POST /v1/queue/hold|release|delete|flush  a selection -> lines {"id", "recipients"}, and {"done": true} at the end
    POST /v1/queue/compact                          -> lines {"bytes"}, and {"done": true} at the end
    POST /v1/send   a line {"sender", "recipients"}, LF, the message's bytes  -> {"id"}

A selection is {"all": true}, or conditions that all have to hold: ids, destination, sender, recipient, client, before,
after, larger, smaller, state, reason (store/values.py). A command over many messages answers while it goes on; what
fails in between is a last line {"error": words}, and what was told before is done. Who hangs up stops it.

Errors are {"error": words}, for a refused message also {"reply": [code, status, text]}. The text of an unexpected exception
is logged and never sent. Whoever can open the socket may do everything: the file mode (0600) is the only guard, set
before the socket listens. A socket left behind by a server that was killed is removed; one that answers is not.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import socket
import stat
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from functools import partial
from pathlib import Path
from typing import Any, TypeGuard

from aiohttp import web

from mailflow.control.ports import Control
from mailflow.control.settings import ControlSettings
from mailflow.errors import QueueError, SendError
from mailflow.observe.log import EventLog, Level
from mailflow.paths import SOCKET_PATH_LIMIT

SOCKET_MODE = 0o600
REQUEST_LIMIT = 2**20  # bytes of a request besides a message
SHUTDOWN_SECONDS = 2.0  # for requests under way when the server stops

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class ControlServer:
    """Serves one `Control` on one socket. `start` raises OSError when the socket cannot be opened."""

    def __init__(self, control: Control, path: Path, settings: ControlSettings, log: EventLog) -> None:
        self._control = control
        self._path = path
        self._log = log
        self._listener: asyncio.AbstractServer | None = None
        app = web.Application(client_max_size=settings.message_size + REQUEST_LIMIT, middlewares=[self._guard])
        app.router.add_get("/v1/status", self._status)
        for name in ("hold", "release", "delete", "flush"):
            app.router.add_post(f"/v1/queue/{name}", partial(self._change, name))
        app.router.add_post("/v1/queue/compact", self._compact)
        app.router.add_post("/v1/queue/write-out", self._write_out)
        app.router.add_post("/v1/send", self._send)
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=SHUTDOWN_SECONDS)

    async def start(self) -> None:
        """Opens the socket and serves. Raises OSError."""
        sock = open_socket(self._path)
        try:
            await self._runner.setup()
            if server := self._runner.server:  # setup made it
                self._listener = await asyncio.get_running_loop().create_unix_server(server, sock=sock)
        except BaseException:
            sock.close()
            self._path.unlink(missing_ok=True)
            raise

    async def close(self) -> None:
        """Stops serving and removes the socket; requests under way may end."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None
            self._path.unlink(missing_ok=True)
        await self._runner.cleanup()

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Turns errors into answers."""
        try:
            return await handler(request)
        except web.HTTPException as answer:
            return _error(answer.status, answer.reason)
        except SendError as error:
            return _error(422, str(error), reply=error.reply)
        except ValueError as error:
            return _error(400, str(error))
        except QueueError as error:
            return _error(503, str(error))
        except Exception as error:  # noqa: BLE001 - the last resort: the request fails, the server goes on
            self._log.event("warning", Level.ERROR, proto="control", reason=f"{request.path}: {error!r}")
            return _error(500, "internal error, see the log")

    async def _status(self, _: web.Request) -> web.Response:
        return web.json_response(self._control.status())

    async def _change(self, name: str, request: web.Request) -> web.StreamResponse:
        return await _stream(request, self._control.change(name, await _object(request)))

    async def _compact(self, request: web.Request) -> web.StreamResponse:
        return await _stream(request, self._control.compact())

    async def _write_out(self, _: web.Request) -> web.Response:
        await self._control.write_out()
        return web.json_response({})

    async def _send(self, request: web.Request) -> web.Response:
        head, separator, content = (await request.read()).partition(b"\n")
        envelope = _parse(head)
        sender, recipients = envelope.get("sender"), envelope.get("recipients")
        if not separator or not isinstance(sender, str) or not _texts(recipients):
            raise ValueError('a line {"sender": text, "recipients": [text]} and the message expected')
        return web.json_response(await self._control.send(sender, recipients, content))


async def _stream(request: web.Request, steps: AsyncGenerator[list[dict[str, Any]], None]) -> web.StreamResponse:
    """Each step's entries as lines, as soon as it is done; an error before the first is an ordinary answer."""
    response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
    try:
        async with aclosing(steps):
            async for entries in steps:
                if not response.prepared:
                    await response.prepare(request)
                await response.write("".join(json.dumps(entry) + "\n" for entry in entries).encode())
        last: dict[str, Any] = {"done": True}
    except QueueError as error:
        if not response.prepared:
            raise
        last = {"error": str(error)}
    if not response.prepared:
        await response.prepare(request)
    await response.write(json.dumps(last).encode() + b"\n")
    await response.write_eof()
    return response


async def _object(request: web.Request) -> dict[str, Any]:
    if (request.content_length or 0) > REQUEST_LIMIT:
        raise web.HTTPRequestEntityTooLarge(REQUEST_LIMIT, request.content_length or 0)
    return _parse(await request.read() or b"{}")


def _parse(data: bytes) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise ValueError("a JSON object expected")  # noqa: TRY004 - of the data, not of our code
    return value


def _texts(value: object) -> TypeGuard[list[str]]:
    return isinstance(value, list) and bool(value) and all(isinstance(item, str) for item in value)


def _error(status: int, words: str, **more: object) -> web.Response:
    return web.json_response({"error": words, **more}, status=status)


def open_socket(path: Path) -> socket.socket:
    """A bound UNIX socket of mode 0600. Raises OSError, also when another server answers at this path."""
    length = len(os.fsencode(path))
    if length > SOCKET_PATH_LIMIT:
        raise OSError(
            errno.ENAMETOOLONG,
            f"control socket: the path has {length} bytes, at most {SOCKET_PATH_LIMIT} work",
            str(path),
        )
    _remove_stale(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.bind(str(path))
        path.chmod(SOCKET_MODE)  # before it listens: until then nobody can connect
    except BaseException:
        sock.close()
        raise
    return sock


def _remove_stale(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise FileExistsError(errno.EEXIST, "control socket: something else has this name", str(path))
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
        else:
            raise OSError(errno.EADDRINUSE, "control socket: another server answers here", str(path))
