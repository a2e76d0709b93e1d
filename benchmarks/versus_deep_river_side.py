"""Their side of `benchmarks.versus_deep_river`: runs in its environment, which has nothing of ours.

Arguments: a JSON file of [record, target] pairs, and the number of units. Says its versions; then,
for each line "START END" on stdin, the processor time of that slice and what was predicted.
"""

import json
import sys
import time
from importlib.metadata import version
from pathlib import Path

import torch
from deep_river.regression.zoo import LSTMRegressor


def main() -> None:
    """Entry point."""
    stream = json.loads(Path(sys.argv[1]).read_text())
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    model = LSTMRegressor(n_features=8, hidden_size=int(sys.argv[2]), window_size=10)
    names = ("deep-river", "torch", "river")
    print(", ".join(f"{name} {version(name)}" for name in names), flush=True)
    for line in sys.stdin:
        start, end = map(int, line.split())
        predictions = []
        begun = time.process_time()
        for x, y in stream[start:end]:
            predictions.append(float(model.predict_one(x)))
            model.learn_one(x, y)
        answer = {"seconds": time.process_time() - begun, "predictions": predictions}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
