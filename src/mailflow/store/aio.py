"""A sync that the kernel makes by itself and of which the event loop hears from a file descriptor: Linux's io_submit(2).

A thread that syncs needs the interpreter lock before and after; while the loop is busy it waits for it each time, and
each of the two wakes the other in vain. Here nobody waits: the loop asks, goes on, and is told.

The calls have no wrapper in Python or the C library, so they are made by number. Where the kernel has none, or lets us have none
(another system, a sandbox, fs.aio-max-nr), `Syncs.open` says so and a thread syncs. See io_submit(2) and linux/aio_abi.h.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import platform
import struct
import sys
from collections.abc import Callable

_NUMBERS = {"x86_64": (206, 207, 208, 209), "aarch64": (0, 1, 4, 2)}
"""io_setup, io_destroy, io_getevents, io_submit."""
_IOCB = struct.Struct("<QIIHhIQQqQII")
"""struct iocb: data, key, rw_flags, opcode, priority, fd, buffer, bytes, offset, reserved, flags, resfd."""
_EVENT = struct.Struct("<QQqq")
"""struct io_event: data, iocb, result, second result."""
_FDSYNC = 3
_TELL_FD = 1
"""IOCB_FLAG_RESFD: the eventfd in `resfd` is told."""


class Syncs:
    """Makes one sync at a time, for one loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, call: Callable[..., int], context: int) -> None:
        """Use `open`."""
        self._loop = loop
        self._call = call
        self._setup, self._destroy, self._getevents, self._submit = _NUMBERS[platform.machine()]
        self._context = ctypes.c_ulong(context)
        self._one, self._none = ctypes.c_long(1), ctypes.c_long(0)
        self._fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._request = ctypes.create_string_buffer(_IOCB.size)
        self._requests = (ctypes.c_void_p * 1)(ctypes.addressof(self._request))
        self._event = ctypes.create_string_buffer(_EVENT.size)
        self._done: Callable[[int], None] | None = None
        loop.add_reader(self._fd, self._told)

    def __repr__(self) -> str:
        return f"<Syncs busy={self._done is not None}>"

    @classmethod
    def open(cls, loop: asyncio.AbstractEventLoop) -> Syncs | None:
        """None where the kernel has no such calls for us."""
        numbers = _NUMBERS.get(platform.machine())
        if sys.platform != "linux" or numbers is None or sys.byteorder != "little":
            return None
        call = ctypes.CDLL(None, use_errno=True).syscall
        context = ctypes.c_ulong(0)
        if call(numbers[0], ctypes.c_long(1), ctypes.byref(context)) != 0:
            return None
        return cls(loop, call, context.value)

    def start(self, fd: int, done: Callable[[int], None]) -> None:
        """Syncs the data of `fd`; `done(0)` when it is on the disk, `done(errno)` when it failed. Raises OSError."""
        _IOCB.pack_into(self._request, 0, 0, 0, 0, _FDSYNC, 0, fd, 0, 0, 0, 0, _TELL_FD, self._fd)
        if self._call(self._submit, self._context, self._one, self._requests) != 1:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        self._done = done

    def _told(self) -> None:
        os.eventfd_read(self._fd)
        if self._call(self._getevents, self._context, self._none, self._one, self._event, None) != 1:
            return  # it was for nothing: there is one request at most
        result = _EVENT.unpack(self._event)[2]
        done, self._done = self._done, None
        if done is not None:
            done(-result)

    def close(self) -> None:
        """Waits for what is under way."""
        self._loop.remove_reader(self._fd)
        self._call(self._destroy, self._context)
        os.close(self._fd)
