"""Sockets to accept on: TCP, UNIX, and those that systemd has bound for us.

`tcp_socket`, `unix_socket` and `inherited_sockets` each give sockets that are bound and ready to be given to the event
loop; they raise OSError. A UNIX socket appears at its path in one step, with its owner and mode, already listening; a stale
one in its place is replaced, one that somebody listens on is not.
"""

from __future__ import annotations

import contextlib
import errno
import grp
import os
import pwd
import socket
import stat
from collections.abc import Mapping
from pathlib import Path

FIRST_INHERITED = 3
"""SD_LISTEN_FDS_START of sd_listen_fds(3)."""
MAX_INHERITED = 1024
"""More sockets than this nobody hands over."""


def tcp_socket(family: int, address: tuple[object, ...]) -> socket.socket:
    """A bound TCP socket."""
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            # "[::]" and "0.0.0.0" may then be bound both, and IPv4 clients are seen as what they are.
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.setblocking(False)  # noqa: FBT003
        sock.bind(address)
    except OSError:
        sock.close()
        raise
    return sock


Identity = tuple[int, int]
"""Device and inode."""


def unix_socket(place: str, *, mode: int, owner: str, backlog: int) -> tuple[socket.socket, Identity]:
    """A listening UNIX socket, and what stands at its path, for `remove_socket`.

    Raises OSError: EADDRINUSE also where something else than a socket is in the way.
    """
    path = Path(place)
    _refuse_if_used(path)
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)  # noqa: FBT003
        fresh.unlink(missing_ok=True)
        sock.bind(str(fresh))
        _chown(fresh, owner)
        fresh.chmod(mode)
        sock.listen(backlog)
        found = fresh.lstat()
        fresh.replace(path)
    except OSError:
        sock.close()
        fresh.unlink(missing_ok=True)
        raise
    return sock, (found.st_dev, found.st_ino)


def _refuse_if_used(path: Path) -> None:
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if stat.S_ISSOCK(found.st_mode):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.setblocking(False)  # noqa: FBT003
            if probe.connect_ex(str(path)) == errno.ECONNREFUSED:
                return
    raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))


def _chown(path: Path, owner: str) -> None:
    if not owner:
        return
    user, _, group = owner.partition(":")
    try:
        uid = int(user) if user.isdecimal() else pwd.getpwnam(user).pw_uid if user else -1
        gid = int(group) if group.isdecimal() else grp.getgrnam(group).gr_gid if group else -1
    except KeyError:
        raise OSError(errno.EINVAL, f'"{owner}" names no user and group of this machine') from None
    os.chown(path, uid, gid)


def remove_socket(place: str, identity: Identity) -> None:
    """Removes the socket from its path, if it is still the same one."""
    path = Path(place)
    with contextlib.suppress(OSError):
        found = path.lstat()
        if (found.st_dev, found.st_ino) == identity:
            path.unlink()


def inherited_sockets(name: str, environment: Mapping[str, str]) -> list[socket.socket]:
    """The listening sockets that were handed over under this name or descriptor number, as copies.

    Source: sd_listen_fds(3). Raises OSError when there is none, and for what is no listening stream socket.
    """
    if environment.get("LISTEN_PID") != str(os.getpid()):
        raise OSError(errno.ENOENT, "no socket was handed to this process (LISTEN_PID)")
    text = environment.get("LISTEN_FDS", "")
    count = min(int(text), MAX_INHERITED) if text.isdecimal() and text.isascii() else 0
    names = environment.get("LISTEN_FDNAMES", "").split(":")
    numbers = [
        FIRST_INHERITED + i
        for i in range(count)
        if name == str(FIRST_INHERITED + i) or (i < len(names) and name == names[i])
    ]
    if not numbers:
        raise OSError(errno.ENOENT, f'no socket of this name was handed over (LISTEN_FDNAMES="{":".join(names)}")')
    return [_inherited(number) for number in numbers]


def _inherited(number: int) -> socket.socket:
    os.set_inheritable(number, False)  # noqa: FBT003 - delivery's programs must not have it
    sock = socket.socket(fileno=os.dup(number))
    if sock.type == socket.SOCK_STREAM and sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        sock.setblocking(False)  # noqa: FBT003
        return sock
    sock.close()
    raise OSError(errno.EINVAL, f"descriptor {number} is not a listening stream socket")
