"""An hourly load without end, as JSON lines on standard output: day, week, weather, noise.

The producer of compose.yml pipes it into examples/replay.py, whose pace holds it back.
"""

import contextlib
import datetime
import itertools
import json
import math
import random
import sys


def main() -> None:
    """Write until nobody reads."""
    noise = random.Random(0)
    start, weather = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC), 0.0
    for hour in itertools.count():
        time = start + datetime.timedelta(hours=hour % 1_000_000)  # 114 years, then again
        weather = 0.98 * weather + noise.gauss(0, 0.5)
        weekend = 8 if time.weekday() >= 5 else 0
        load = 50 + 20 * math.sin(hour / 24 * math.tau) - weekend + weather + noise.gauss(0, 1)
        sys.stdout.write(json.dumps({"timestamp": time.isoformat(), "load": round(load, 2)}) + "\n")


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        main()
