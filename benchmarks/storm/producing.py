"""A producer to be killed: sends the lines of a file that grows, until it has come to the end.

    python -m benchmarks.storm.producing EVENTS log|spool ADDRESS

The file grows as long as there is a file `EVENTS.growing` beside it. With "log" the file is the
producer's memory, with "spool" its spool is.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path

from stream_rnn.producer import Producer


def lines(path: Path) -> Iterator[bytes]:
    """Whole lines, as they come, until the file has its last one."""
    growing = path.with_name(path.name + ".growing")
    rest = b""
    with path.open("rb") as file:
        while True:
            is_last = not growing.exists()
            data = file.read(1 << 16)
            *whole, rest = (rest + data).split(b"\n")
            yield from whole
            if not data:
                if is_last:
                    return
                time.sleep(0.01)


def main() -> None:
    """Entry point."""
    path, mode, address = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    spool = "spool" if mode == "spool" else None
    with Producer(address, "p", spool=spool, buffer_events=2000, heartbeat_s=0.5) as producer:
        after = producer.connect()
        if spool is not None:
            after = producer.newest or 0
        for number, line in enumerate(lines(path), 1):
            if number > after:
                producer.send(line, None if spool else number)


if __name__ == "__main__":
    main()
