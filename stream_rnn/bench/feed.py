"""Sends so many events to a ZeroMQ socket, from a process of its own: `ADDRESS N`."""

from __future__ import annotations

import sys

import zmq


def event(i: int) -> bytes:
    """The i-th event, as a line of JSON."""
    return b'{"t": %d, "value": %.6f}' % (i, (i * 7919) % 101 / 101)


def main(address: str, n_events: int) -> None:
    """Send them all, as fast as they are taken."""
    with zmq.Context() as context, context.socket(zmq.PUSH) as socket:
        socket.connect(address)
        for i in range(n_events):
            socket.send(event(i))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
