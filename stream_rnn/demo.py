"""The demo's stream, and the folder it may write to."""

from __future__ import annotations

import importlib.resources
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from stream_rnn.config import ConfigError

STEP_S = 0.0005  # of the membrane recording
SAMPLES = 10_000
HORIZON = 10


def clear(out: Path) -> tuple[Path, Path]:
    """Take `out` for a demo; returns its state folder and its file of predictions.

    Raises:
        ConfigError: it cannot be written, or holds what no demo made.
    """
    state, predictions, mark = out / "state", out / "predictions.jsonl", out / ".demo"
    try:
        if not mark.exists() and (state.exists() or predictions.exists()):
            raise ConfigError(
                f"--out {out}: holds a state or predictions that no demo made, and a demo clears "
                "its folder; name another"
            )
        out.mkdir(parents=True, exist_ok=True)
        mark.touch()
        if state.exists():  # our own output of the last demo
            shutil.rmtree(state)
        predictions.unlink(missing_ok=True)
    except OSError as error:
        raise ConfigError(
            f"--out {out}: cannot be written: {error.strerror}; name another"
        ) from error
    return state, predictions


def stream(out: Path) -> tuple[dict[str, Any], str]:
    """A real recording that comes with an installed package, as a stream of JSON lines.

    The membrane potential of a nerve cell at 2 kHz ships with matplotlib (the extra `plot`); its
    first 10,000 samples, 5 s, before the stimulus ends. Without that, the water flow in a pipeline
    that ships with River.
    """
    try:
        folder = importlib.resources.files("matplotlib") / "mpl-data" / "sample_data"
        samples = np.frombuffer((folder / "membrane.dat").read_bytes(), dtype="<f4")
    except (ModuleNotFoundError, FileNotFoundError):
        river = {
            "source": {"kind": "river", "dataset": "WaterFlow"},
            "task": {"kind": "forecast", "target": "Flow", "horizon": 1},
        }
        return river, "stream-rnn demo: water flow in a pipeline, one hour ahead"
    path = out / "membrane.jsonl"
    with path.open("w") as file:
        for i, value in enumerate(samples[:SAMPLES].tolist()):
            file.write(json.dumps({"t_s": round(i * STEP_S, 4), "potential": value}) + "\n")
    membrane = {
        "source": {"kind": "jsonl", "path": str(path)},
        "task": {"kind": "forecast", "target": "potential", "horizon": HORIZON},
    }
    ahead_ms = 1000 * HORIZON * STEP_S
    return membrane, f"stream-rnn demo: membrane potential of a nerve cell, {ahead_ms:g} ms ahead"
