"""An hourly load without end for the daemon of compose.yml: day, week, weather, noise.

The number of an event is its hour, and an hour's event is always the same: so this program keeps
nothing. Kill it or the daemon at any moment; it goes on where the newest snapshot ends.

    python deploy/docker/feed.py tcp://127.0.0.1:5555 --rate 50
"""

import argparse
import datetime
import itertools
import json
import math
import random
import sys
import time

from stream_rnn.producer import Producer

START = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
HOURS = 1_000_000  # 114 years, then again


def event(number: int) -> bytes:
    """The event of hour `number`, counted from 1."""
    hour = (number - 1) % HOURS
    at = START + datetime.timedelta(hours=hour)
    day = 20 * math.sin(hour / 24 * math.tau) - (8 if at.weekday() >= 5 else 0)
    weather = 3 * math.sin(hour / 83 * math.tau) + 2 * math.sin(hour / 191 * math.tau)
    noise = random.Random(hour).gauss(0, 1)
    record = {"timestamp": at.isoformat(), "load": round(50 + day + weather + noise, 2)}
    return json.dumps(record).encode()


def main() -> int:
    """Send at a steady rate, for ever."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("address", help='where the source is bound, e.g. "tcp://127.0.0.1:5555"')
    parser.add_argument("--rate", type=float, default=50.0, help="events per second")
    given = parser.parse_args()
    if not given.rate > 0:
        parser.error(f"--rate must be positive, got {given.rate}")
    with Producer(given.address, "feed") as producer:
        resume_after = producer.connect()
        sys.stderr.write(f"feed: {resume_after} events are in a snapshot already\n")
        started = time.monotonic()
        for number in itertools.count(resume_after + 1):
            due_s = (number - resume_after - 1) / given.rate
            time.sleep(max(0.0, started + due_s - time.monotonic()))
            producer.send(event(number), number)
    return 0


if __name__ == "__main__":
    sys.exit(main())
