"""Where the control socket is, whatever the length of the path that leads there.

The address of a Unix socket holds 107 bytes. A folder that is opened has a short name of its own,
/proc/self/fd/N, so that no path is too long and no working directory has to be changed.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NAME = "control.sock"
LONGEST = 107  # bytes


@contextmanager
def address(directory: Path) -> Iterator[str]:
    """A name of the socket in `directory` that fits into an address, valid inside the block.

    Raises:
        OSError: the folder cannot be opened, or its path is too long where there is no /proc.
    """
    path = os.fspath(directory / NAME)
    if len(os.fsencode(path)) <= LONGEST:
        yield path
        return
    descriptor = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        short = f"/proc/self/fd/{descriptor}"
        if not os.path.isdir(short):  # noqa: PTH112 - a name, not a place to walk on from
            raise OSError(
                0,
                f"a path of {len(os.fsencode(path))} bytes is too long for a socket (at most "
                f"{LONGEST}) where there is no /proc; choose a shorter [state] dir",
            )
        yield f"{short}/{NAME}"
    finally:
        os.close(descriptor)


def peer(connection: socket.socket) -> tuple[int, int]:
    """Process and user at the other end, as the kernel knows them."""
    size = struct.calcsize("3i")
    pid, uid, _ = struct.unpack(
        "3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    )
    return int(pid), int(uid)
