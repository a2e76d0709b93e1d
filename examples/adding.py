"""Made-up episodes: numbers come by, two of them marked, and the sum of the two is asked for.

    python examples/adding.py > adding.jsonl
    python examples/adding.py --errors state/fptt/predictions.jsonl

Several streams side by side, an episode after another in each. Every event carries the answer, with
a weight that grows along the episode: what little is known early counts little. With `--errors` it
makes none, and tells what predictions were worth where it matters, at the ends of the episodes.
"""

import argparse
import json
import random
import sys
from collections import Counter
from pathlib import Path

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


def errors(path: str, length: int):
    """The squared error at the end of each episode."""
    events = Counter()
    with Path(path).open(encoding="utf-8") as lines:
        for prediction in map(json.loads, lines):
            key = prediction["key"]
            events[key] += 1
            if events[key] % length == 0 and prediction["scored"]:
                yield prediction["scored"]["loss"]


def told(path: str, length: int) -> str:
    """Their mean in each tenth of all episodes, the oldest first."""
    found = list(errors(path, length))
    n = len(found) // 10
    means = (sum(found[i * n : (i + 1) * n]) / n for i in range(10)) if n else ()
    return "squared error at the end of an episode, tenth by tenth of the run:\n" + " ".join(
        f"{mean:.3f}" for mean in means
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--length", type=int, default=20, help="events of an episode")
    parser.add_argument("--streams", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=400, help="episodes of each stream")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--errors", metavar="PREDICTIONS", help="tell these at the ends instead")
    args = vars(parser.parse_args())
    predictions = args.pop("errors")
    if predictions:
        sys.stdout.write(told(predictions, args["length"]) + "\n")
    else:
        for event in episodes(**args):
            sys.stdout.write(json.dumps(event) + "\n")
