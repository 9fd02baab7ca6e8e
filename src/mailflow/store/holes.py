"""Giving the blocks of part of a file back to the disk: fallocate(2) with PUNCH_HOLE, which Python's os does not have."""

from __future__ import annotations

import ctypes
import errno
import os
from functools import cache
from typing import Any

KEEP_SIZE, PUNCH_HOLE = 1, 2
"""From linux/falloc.h."""


@cache
def _fallocate() -> Any:
    """The C library's function; None where there is none."""
    function = getattr(ctypes.CDLL(None, use_errno=True), "fallocate64", None)
    if function is None:
        function = getattr(ctypes.CDLL(None, use_errno=True), "fallocate", None)
    if function is not None:
        function.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_longlong, ctypes.c_longlong]
    return function


def punch_hole(fd: int, start: int, size: int) -> None:
    """Makes `size` bytes at `start` a hole that reads as zeros. Raises OSError (EOPNOTSUPP: the file system cannot)."""
    function = _fallocate()
    if function is None:
        raise OSError(errno.EOPNOTSUPP, "fallocate is missing")
    if function(fd, KEEP_SIZE | PUNCH_HOLE, start, size):
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
