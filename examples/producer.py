"""Send the lines of a file to `kind = "zeromq_router"`, each of them exactly once.

    stream-rnn run examples/zeromq_router.toml
    python examples/producer.py events.jsonl --connect tcp://127.0.0.1:5555 --id meter-1

A line's number is its event's number, so the file itself is the memory: kill this program or the
daemon at any moment and start it again, and it goes on after the last line that is in a durable
snapshot. The file may grow, but what stands in it must stay.
"""

import argparse
import sys
import time
from pathlib import Path

from stream_rnn.producer import Producer, Refused

PATIENCE_S = 5.0  # without a word about it


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("file", type=Path, help="one event per line")
    parser.add_argument("--connect", metavar="ADDRESS", default="tcp://127.0.0.1:5555")
    parser.add_argument("--id", required=True, help="the same at every start, and nobody else's")
    parser.add_argument("--rate", type=float, help="events per second; else as fast as they go")
    given = parser.parse_args()
    if given.rate is not None and not given.rate > 0:
        parser.error(f"--rate must be positive, got {given.rate}")
    with given.file.open("rb") as file, Producer(given.connect, given.id) as producer:
        try:
            resume_after = producer.connect(PATIENCE_S)
        except TimeoutError:
            sys.stderr.write(f"producer: waits for a daemon at {given.connect}\n")
            resume_after = producer.connect()
        sys.stderr.write(f"producer: {resume_after} lines are in a snapshot already\n")
        started = time.monotonic()
        for number, line in enumerate(file, 1):
            if number <= resume_after:
                continue
            if given.rate:
                due_s = (number - resume_after - 1) / given.rate
                time.sleep(max(0.0, started + due_s - time.monotonic()))
            producer.send(line.rstrip(b"\n"), number)
        # Leaving the block waits until everything is in a durable snapshot.
    sys.stderr.write(f"producer: all {producer.acknowledged} lines are\n")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (OSError, ValueError, Refused) as wrong:
        sys.exit(f"producer: {wrong}")
    except KeyboardInterrupt:
        sys.exit("producer: stopped; started again it goes on after the last line in a snapshot")
