"""Has so many events ready for a ZeroMQ socket, in a process of its own: `ADDRESS N`.

They are a backlog: all wait in libzmq before the first is taken, and no Python runs here any more
when it is, which would take its share of a small machine.
"""

from __future__ import annotations

import sys

import zmq


def event(i: int) -> bytes:
    """The i-th event, as a line of JSON."""
    return b'{"t": %d, "value": %.6f}' % (i, (i * 7919) % 101 / 101)


def main(address: str, n_events: int) -> None:
    """Hand them all to libzmq, say so in a line, and stay until they are taken."""
    with zmq.Context() as context, context.socket(zmq.PUSH) as socket:
        socket.set(zmq.SNDHWM, 0)  # whatever their number
        socket.connect(address)
        for i in range(n_events):
            socket.send(event(i))
        print("ready", flush=True)  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
