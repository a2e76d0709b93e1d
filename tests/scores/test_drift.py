from __future__ import annotations

import json
import math
import random
import re
import subprocess
import sys
from typing import Any

import pytest

from stream_rnn.scores import Drift


def through_json(state: dict[str, Any]) -> Any:
    return json.loads(json.dumps(state, allow_nan=False))


def level_changes(levels: list[float], each: int, seed: int = 0) -> list[float]:
    rng = random.Random(seed)
    return [level + 0.1 * rng.random() for level in levels for _ in range(each)]


def test_a_loss_that_rises_for_good_raises_one_alarm() -> None:
    drift = Drift(cooldown=1000)
    alarms = [t for t, x in enumerate(level_changes([0.1, 0.9], 600)) if drift.update(x)]
    assert len(alarms) == drift.alarms == 1
    assert 600 <= alarms[0] < 700


def test_a_falling_loss_is_learning_and_no_drift() -> None:
    drift = Drift()
    for loss in level_changes([0.9, 0.1], 600):
        assert not drift.update(loss)
    assert drift.alarms == 0


def test_alarms_within_the_cooldown_are_merged() -> None:
    losses = level_changes([0.1, 0.9, 1.7], 400)
    merged, single = Drift(cooldown=1000), Drift(cooldown=0)
    for loss in losses:
        merged.update(loss)
        single.update(loss)
    assert merged.alarms == 1
    assert single.alarms >= 2


def test_drift_refuses_a_loss_that_is_not_finite() -> None:
    with pytest.raises(ValueError, match="expected a finite loss, got nan"):
        Drift().update(math.nan)


@pytest.mark.parametrize("cut", [100, 640, 1000])
def test_drift_continues_bit_identically_after_json(cut: int) -> None:
    losses = level_changes([0.1, 0.9, 1.7], 600)
    straight, resumed = Drift(cooldown=50), Drift(cooldown=50)
    for loss in losses[:cut]:
        straight.update(loss)
    resumed.load_state_dict(through_json(straight.state_dict()))
    for loss in losses[cut:]:
        assert straight.update(loss) == resumed.update(loss)
    assert resumed.state_dict() == straight.state_dict()
    assert resumed.alarms >= 2


def test_the_cooldown_goes_on_after_a_restart() -> None:
    before = Drift(cooldown=1000)
    for loss in level_changes([0.1, 0.9], 400):
        before.update(loss)
    after = Drift(cooldown=1000)
    after.load_state_dict(through_json(before.state_dict()))
    for loss in level_changes([1.7], 400):
        after.update(loss)
    assert before.alarms == after.alarms == 1


def test_a_drift_state_of_another_delta_is_refused() -> None:
    with pytest.raises(ValueError, match=re.escape("saved with delta = 0.002")):
        Drift(delta=0.1).load_state_dict(Drift().state_dict())


def test_neither_torch_nor_river_nor_matplotlib_is_imported_before_it_is_needed() -> None:
    code = (
        "import sys, stream_rnn.report, stream_rnn.scores; "
        "print([m for m in ('torch', 'river', 'matplotlib', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("at_once", [1, 7, 256])
@pytest.mark.parametrize("cooldown", [0, 50])
def test_losses_taken_at_once_raise_the_alarms_of_one_by_one(at_once: int, cooldown: int) -> None:
    from river.drift import ADWIN

    rng = random.Random(at_once)
    levels = [rng.choice([0.1, 0.5, 0.9, 1.7]) for _ in range(12)]
    losses = level_changes(levels, 150, seed=at_once)
    adwin, alarms, quiet, cuts = ADWIN(delta=0.002), 0, 0, 0
    drift = Drift(cooldown=cooldown)
    for start in range(0, len(losses), at_once):
        for loss in losses[start : start + at_once]:
            quiet, before = max(quiet - 1, 0), adwin.estimation
            adwin.update(loss)
            cuts += adwin.drift_detected
            if adwin.drift_detected and adwin.estimation > before and not quiet:
                alarms, quiet = alarms + 1, cooldown
        drift.update_many(losses[start : start + at_once])
        assert drift.alarms == alarms
        assert drift.state_dict()["quiet"] == quiet
    assert 0 < alarms < cuts  # losses that fall cut the window, too
