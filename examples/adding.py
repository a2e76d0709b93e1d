"""Made-up episodes: numbers come by, two of them marked, and the sum of the two is asked for.

    python examples/adding.py > adding.jsonl

Several streams side by side, an episode after another in each. Every event carries the answer, with
a weight that grows along the episode: what little is known early counts little.
"""

import argparse
import json
import random
import sys

PARTS = 10  # steps in which the weight grows to 1


def episodes(length: int, streams: int, rounds: int, seed: int):
    rng, half = random.Random(seed), length // 2
    for _ in range(rounds):
        values = [[round(rng.random(), 3) for _ in range(length)] for _ in range(streams)]
        marks = [(rng.randrange(half), rng.randrange(half, length)) for _ in range(streams)]
        for t in range(length):
            for stream, (value, mark) in enumerate(zip(values, marks, strict=True)):
                yield {
                    "stream": stream,
                    "value": value[t],
                    "mark": int(t in mark),
                    "sum": round(sum(value[m] for m in mark), 3),
                    "weight": (t * PARTS // length + 1) / PARTS,
                    "last": t == length - 1,
                }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--length", type=int, default=20, help="events of an episode")
    parser.add_argument("--streams", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=400, help="episodes of each stream")
    parser.add_argument("--seed", type=int, default=0)
    for event in episodes(**vars(parser.parse_args())):
        sys.stdout.write(json.dumps(event) + "\n")
