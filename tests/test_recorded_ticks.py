"""Ticks that are recorded and played: the same bits as the tick in torch, whatever comes."""

from __future__ import annotations

import copy
import dataclasses
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from stream_rnn.cells import CELLS, Lstm, Tanh
from stream_rnn.credit import RULES, Fallback, Kf, Ok, Segmented, Tbptt
from stream_rnn.credit.fidelity import Fidelity
from stream_rnn.frame import Block, Frame, Outcome
from stream_rnn.head import CrossEntropy, Head, Quantile, SquaredError, initial_readout
from stream_rnn.learner import Learner
from stream_rnn.least_squares import LeastSquaresHead
from stream_rnn.native import loading
from stream_rnn.plan import recorded, tape
from stream_rnn.plan.recorded import ROWS, drawn_for
from stream_rnn.plan.tape import Tape
from stream_rnn.recurrence import Dense, Elstm, Feedforward, Lru, Recurrence, Rtu, Stack
from stream_rnn.update import Adam, Fptt, Obgd, Sgd, Update

LearnerOf = Callable[..., Learner]
FramesOf = Callable[..., list[Frame]]
REPEATING = [rule for rule in RULES if rule != "adaptive_tbptt"]
B, I, Q = 3, 2, 1  # noqa: E741


@pytest.fixture(autouse=True)
def soon_and_without_the_library(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setitem(recorded.BEFORE, "cpu", 2)
    with loading.switched_off():
        yield


def is_playing(learner: Learner) -> bool:
    recorded = learner._recorded
    return recorded is not None and any(film is not None for film in recorded._films.values())


def assert_same(one: Any, other: Any) -> None:
    ours, theirs = (
        vars_of(each) if isinstance(each, Outcome) else each.state_dict() for each in (one, other)
    )
    assert ours.keys() == theirs.keys()
    different = [name for name in ours if not same(ours[name], theirs[name])]
    assert not different


def vars_of(outcome: Outcome) -> dict[str, Tensor | None]:
    return {field.name: getattr(outcome, field.name) for field in dataclasses.fields(outcome)}


def same(one: Tensor | None, other: Tensor | None) -> bool:
    if one is None or other is None:
        return one is other
    return torch.equal(torch.nan_to_num(one), torch.nan_to_num(other))  # NaN where they are NaN


def accidents(frames: list[Frame]) -> list[Frame]:
    """A bad event, and one whose loss makes the gradient overflow, among them."""
    frames[9].x_BI[1, 0] = torch.nan
    frames[12].y_BQ[0] = 1e20
    return frames


def go_the_same_way(learner: Learner, frames: list[Frame]) -> None:
    alone = copy.deepcopy(learner)
    for t, frame in enumerate(frames):
        if t == 20:  # credit that has come apart
            for each in (learner, alone):
                for name, tensor in each.recurrence.lane_state.items():
                    if tensor.is_floating_point() and not name.startswith(("s_", "ahead")):
                        tensor[2:] = torch.nan
        assert_same(learner.step(frame), alone._step(frame))
    assert_same(learner, alone)


@pytest.mark.parametrize("rule", REPEATING)
@pytest.mark.parametrize("kind", list(CELLS))
def test_every_rule_and_cell(
    kind: str, rule: str, learner_of: LearnerOf, frames_of: FramesOf
) -> None:
    learner = learner_of(kind, rule, n_lanes=B, horizon=2 if kind == "gru" else 0)
    go_the_same_way(learner, accidents(frames_of(30, n_lanes=B, idle=0.2, unscored=0.2)))
    assert is_playing(learner)


def learner_with(
    recurrence: Recurrence,
    update: Update | None = None,
    head_update: Update | None = None,
    head: type[Head] = Head,
    loss: Any = None,
) -> Learner:
    generator = torch.Generator().manual_seed(5)
    loss = loss or SquaredError()
    V_PF = initial_readout(recurrence.width, I, loss, generator)
    dtype = recurrence.parameters()[0].dtype
    read = head(recurrence.width, I, loss, V_PF.to(dtype))
    return Learner(recurrence, read, update or Adam(0.01), head_update or Adam(0.01))


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(1)


def dense(credit: Callable[[Any], Any], fidelity: Fidelity | None = None) -> Dense:
    cell = Lstm(I, 4)
    return Dense(cell, credit(cell), cell.initial_weight(generator()).double(), fidelity)


def stack() -> Stack:
    cell = Tanh(I, 4)
    below = Dense(cell, Kf(cell, B, generator()), cell.initial_weight(generator()).float())
    return Stack([below, Lru(4, 3, B, generator()), Feedforward(6, 3, B, generator())])


PARTS: dict[str, Callable[[], Learner]] = {
    "lru": lambda: learner_with(Lru(I, 4, B, generator())),
    "rtu linear": lambda: learner_with(Rtu(I, 4, B, generator(), "linear")),
    "rtu tanh": lambda: learner_with(Rtu(I, 4, B, generator(), "tanh")),
    "elstm": lambda: learner_with(Elstm(I, 4, B, generator())),
    "stack": lambda: learner_with(stack()),
    "fptt": lambda: learner_with(dense(lambda c: Tbptt(c, B, 5)), Fptt(Adam(0.01)), Fptt(Sgd(0.1))),
    "obgd": lambda: learner_with(dense(lambda c: Kf(c, B, generator())), Obgd(), Obgd(0.1, 1.5)),
    "momentum": lambda: learner_with(dense(lambda c: Kf(c, B, generator())), Sgd(0.1, 0.9)),
    "squares": lambda: learner_with(Lru(I, 4, B, generator()), head=LeastSquaresHead),
    "quantile": lambda: learner_with(Rtu(I, 4, B, generator()), loss=Quantile(tau=0.2)),
    "ok rows": lambda: learner_with(dense(lambda c: Ok(c, B, generator(), rank=2, chunks="row"))),
    "ladder": lambda: learner_with(dense(lambda c: Fallback([Kf(c, B, generator()), Tbptt(c, B)]))),
}


@pytest.mark.parametrize("parts", PARTS)
def test_every_part(parts: str, frames_of: FramesOf) -> None:
    learner = PARTS[parts]()
    dtype = learner.head.V_PF.dtype
    go_the_same_way(learner, accidents(frames_of(30, n_lanes=B, idle=0.2, dtype=dtype)))
    assert is_playing(learner)


@pytest.mark.parametrize("loss", [SquaredError(), CrossEntropy(2)], ids=["squares", "classes"])
def test_weighted_losses(loss: Any, learner_of: LearnerOf, frames_of: FramesOf) -> None:
    """Ticks with weights and without them take turns: two recordings."""
    learner = learner_of("gru", "kf", n_lanes=B, loss=loss)
    frames = accidents(frames_of(30, n_lanes=B, idle=0.2))
    weights_TB = torch.rand(30, B, generator=generator()).double()
    weights_TB[7, 0], weights_TB[15, 1], weights_TB[16, 2] = 0.0, torch.nan, 1.5
    for t, frame in enumerate(frames):
        frame.y_BQ.copy_(frame.y_BQ > 0)
        if t % 3:
            frames[t] = dataclasses.replace(frame, weight_B=weights_TB[t])
    go_the_same_way(learner, frames)
    assert learner._recorded is not None
    assert len([film for film in learner._recorded._films.values() if film is not None]) == 2


def block_of(frames: list[Frame]) -> Block:
    names = ("x_BI", "y_BQ", "live_B", "scored_B")
    return Block(*(torch.stack([getattr(frame, name) for frame in frames]) for name in names))


@pytest.mark.parametrize("rule", ["kf", "ok", "tbptt", "rtrl"])
@pytest.mark.parametrize("teaches", ["all", "nothing"])
def test_runs_end_where_somebody_must_hear_of_it(
    rule: str, teaches: Any, learner_of: LearnerOf, frames_of: FramesOf
) -> None:
    learner, alone = (learner_of("gru", rule, n_lanes=B) for _ in range(2))
    learner.teaches = alone.teaches = teaches
    frames = frames_of(3 * ROWS, n_lanes=B, idle=0.2)
    lengths: list[int] = []
    block, at = block_of(frames), 0
    while at < len(frames):
        if at > 40 and len(lengths) % 3 == 0:
            for each in (learner, alone):  # the next tick restarts the credit of lane 1
                for name, tensor in each.recurrence.lane_state.items():
                    if name.startswith("credit.") and tensor.is_floating_point():
                        tensor[1] = torch.nan
        outcomes = learner.run(block, at)
        lengths.append(len(outcomes))
        for t in range(len(outcomes)):
            expected = alone._step(frames[at + t])
            assert_same(outcomes.outcome(t), expected)
            if t + 1 < len(outcomes):
                assert not expected.restarted_B.any()
        at += len(outcomes)
    assert_same(learner, alone)
    assert max(lengths) > 20
    assert is_playing(learner)


def test_a_run_ends_after_an_update_that_was_refused(
    learner_of: LearnerOf, frames_of: FramesOf
) -> None:
    learner, alone = (learner_of("gru", "kf", n_lanes=2, dtype=torch.float32) for _ in range(2))
    frames = frames_of(60, n_lanes=2, dtype=torch.float32)
    for frame in frames[:20]:
        learner.step(frame)
        alone._step(frame)
    assert is_playing(learner)
    for each in (learner, alone):  # the gradient's norm overflows for inputs of this size
        each.head.V_PF.fill_(1e8)
    for frame in (frames[25], frames[33]):
        frame.x_BI[:] = 9e5
    block, at, refused = block_of(frames), 20, 0
    while at < len(frames):
        outcomes = learner.run(block, at)
        for t in range(len(outcomes)):
            expected = alone._step(frames[at + t])
            assert_same(outcomes.outcome(t), expected)
            is_refused = bool(expected.learned_B.any()) and not bool(expected.updated)
            assert not is_refused or t + 1 == len(outcomes)
            refused += is_refused and not bool(expected.restarted_B.any())
        at += len(outcomes)
    assert refused
    assert_same(learner, alone)


def test_what_is_set_between_two_ticks_is_heeded(
    learner_of: LearnerOf, frames_of: FramesOf
) -> None:
    learner, alone = (learner_of("gru", "kf", n_lanes=B) for _ in range(2))
    frames = frames_of(60, n_lanes=B)
    for t, frame in enumerate(frames):
        for each in (learner, alone):
            if t == 10:
                each.update.lr = 0.5
            if t == 20:
                each.reset(torch.tensor([True, False, False]))
            if t == 30:
                each.load_state_dict(copy.deepcopy(each.state_dict()))
            if t in (40, 50):
                each.teaches = "nothing" if t == 40 else "all"
        assert_same(learner.step(frame), alone._step(frame))
    assert_same(learner, alone)
    assert is_playing(learner)


def test_a_recording_keeps_the_tensors_that_it_is_known_by(
    learner_of: LearnerOf, frames_of: FramesOf
) -> None:
    learner = learner_of("gru", "kf", n_lanes=B)
    for frame in frames_of(8, n_lanes=B):
        learner.step(frame)
    recorded_ticks = learner._recorded
    assert recorded_ticks is not None
    assert recorded_ticks.fits(learner._parts())
    kept = {id(tensor) for tensor in recorded_ticks._tensors}
    learner.load_state_dict(copy.deepcopy(learner.state_dict()))
    assert not recorded_ticks.fits(learner._parts())
    # none that came instead is where one of them is
    now = {id(t) for t in learner.recurrence.lane_state.values()}
    replaced = now - kept
    assert replaced
    assert {id(tensor) for tensor in recorded_ticks._tensors} == kept


def test_a_ladder_that_moves_is_recorded_anew(frames_of: FramesOf) -> None:
    learner = PARTS["ladder"]()
    alone = copy.deepcopy(learner)
    for t, frame in enumerate(frames_of(60, n_lanes=B)):
        if t in (15, 35):
            for each in (learner, alone):
                assert isinstance(each.recurrence, Dense)
                assert isinstance(each.recurrence.credit, Fallback)
                each.recurrence.credit.move(1 if t == 15 else 0)
        assert_same(learner.step(frame), alone._step(frame))
    assert_same(learner, alone)
    assert learner.report() == alone.report()


def test_the_probe_of_the_gradient_sees_what_it_asks_for(frames_of: FramesOf) -> None:
    def learner() -> Learner:
        return learner_with(dense(lambda c: Kf(c, B, generator()), Fidelity(window=3, every=10)))

    recorded, alone = learner(), learner()
    frames = frames_of(60, n_lanes=B)
    block, at = block_of(frames), 0
    while at < len(frames):
        at += len(recorded.run(block, at))
    for frame in frames:
        alone._step(frame)
    assert_same(recorded, alone)
    assert recorded.report() == alone.report()
    assert "fidelity" in recorded.report()
    assert is_playing(recorded)


def test_the_probe_of_a_layer_counts_its_ticks(frames_of: FramesOf) -> None:
    learner, alone = (learner_with(stack()) for _ in range(2))
    for each in (learner, alone):
        assert isinstance(each.recurrence, Stack)
        below = each.recurrence.layers[0]
        assert isinstance(below, Dense)
        below.fidelity = Fidelity(window=3, every=10)
    for frame in frames_of(40, n_lanes=B, dtype=torch.float32):
        assert_same(learner.step(frame), alone._step(frame))
    assert_same(learner, alone)
    assert learner.report() == alone.report()
    assert "fidelity" in learner.report()
    assert is_playing(learner)


@pytest.mark.parametrize("what", ["a parameter", "an input"])
def test_what_autograd_follows_is_played_like_anything_else(what: str, frames_of: FramesOf) -> None:
    learner, alone = (PARTS["momentum"]() for _ in range(2))
    for each in (learner, alone):
        each.recurrence.parameters()[0].requires_grad_(what == "a parameter")
    for frame in frames_of(12, n_lanes=B):
        frame.x_BI.requires_grad_(what == "an input")
        assert_same(learner.step(frame), alone._step(frame))
    assert is_playing(learner)


@pytest.mark.parametrize("wrong", ["x_BI", "live_B"])
def test_rows_of_another_shape_are_refused_at_any_tick(
    wrong: str, learner_of: LearnerOf, frames_of: FramesOf
) -> None:
    learner = learner_of("gru", "kf", n_lanes=B)
    frames = frames_of(12, n_lanes=B)
    bad = {"x_BI": frames[0].x_BI[:, :1], "live_B": torch.ones(1, 2, dtype=torch.bool)}[wrong]
    for frame in frames:
        with pytest.raises((RuntimeError, ValueError, IndexError)):
            learner.step(dataclasses.replace(frame, **{wrong: bad}))
        learner.step(frame)
    assert is_playing(learner)


def test_a_tick_that_makes_too_much_is_left_to_torch(
    monkeypatch: pytest.MonkeyPatch, learner_of: LearnerOf, frames_of: FramesOf
) -> None:
    monkeypatch.setattr(tape, "MOST_BYTES", 5000)
    learner = learner_of("gru", "ok", n_lanes=B)
    go_the_same_way(learner, frames_of(15, n_lanes=B))
    assert not is_playing(learner)
    assert learner._recorded is not None
    assert list(learner._recorded._films.values()) == [None]


def test_layers_that_share_a_generator_are_put_back_once() -> None:
    signs = generator()
    cells = Tanh(I, 4), Tanh(4, 4)
    layers = [Dense(c, Kf(c, B, signs), c.initial_weight(generator()).float()) for c in cells]
    learner = learner_with(Stack(layers))
    film = recorded.Film(learner._parts(), learner._step_of, weighted=False)
    assert film._generators == [signs]


def test_recording_imports_no_compiler() -> None:
    program = """
import sys, torch
from stream_rnn.bench.cases import Case
from stream_rnn.native import loading
from stream_rnn.plan import recorded, tape
recorded.BEFORE["cpu"] = 2
with loading.switched_off():
    case = Case("gru", "kf", 3)
    learner, block = case.learner(), case.block(20)
    for t in range(20):
        learner.step(block.frame(t))
assert any(learner._recorded._films.values())
print("torch._dynamo" in sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["False"]


def test_reports_are_of_the_last_tick(learner_of: LearnerOf, frames_of: FramesOf) -> None:
    learner, alone = (learner_of("lstm", "ok", n_lanes=B) for _ in range(2))
    for t, frame in enumerate(frames_of(20, n_lanes=B)):
        learner.step(frame)
        alone._step(frame)
        if t in (11, 12):  # one that is not played in between
            learner._step(frame)
            alone._step(frame)
        assert learner.report() == alone.report()
    assert is_playing(learner)


@pytest.mark.parametrize("teaches", ["all", "nothing", "readout"])
@pytest.mark.parametrize("rule", [Tbptt, Segmented])
def test_a_locked_window_has_two_ticks(
    rule: Any, teaches: Any, learner_of: LearnerOf, frames_of: FramesOf
) -> None:
    """One that pays and one that does not; a state between two payments goes on elsewhere."""
    learner, alone, third = (
        learner_of("lstm", lambda cell, n: rule(cell, n, window=6, every=4), n_lanes=B)
        for _ in range(3)
    )
    for each in (learner, alone, third):
        each.teaches = teaches
    frames = accidents(frames_of(50, n_lanes=B, idle=0.2, unscored=0.2))
    for t, frame in enumerate(frames):
        if t % 7 == 5:
            ends_B = torch.arange(B) == t % B
            learner.reset(ends_B)
            alone.reset(ends_B)
        if t == 26:
            third.load_state_dict(copy.deepcopy(learner.state_dict()))
        assert_same(learner.step(frame), alone._step(frame))
        assert learner.report() == alone.report()
    assert_same(learner, alone)
    if teaches == "readout":
        assert not is_playing(learner)
        return
    films = learner._recorded._films  # type: ignore[union-attr]
    assert [film is not None for film in films.values()] == [True, True]
    again = learner_of("lstm", lambda cell, n: rule(cell, n, window=6, every=4), n_lanes=B)
    again.teaches = teaches
    again.load_state_dict(third.state_dict())
    for frame in frames[26:40]:
        assert_same(third.step(frame), again._step(frame))


def test_runs_of_a_locked_window_end_where_it_pays(
    learner_of: LearnerOf, frames_of: FramesOf
) -> None:
    learner, alone = (
        learner_of("gru", lambda cell, n: Tbptt(cell, n, window=9, every=5), n_lanes=B)
        for _ in range(2)
    )
    frames = frames_of(80, n_lanes=B, idle=0.2)
    block, at, lengths = block_of(frames), 0, []
    while at < len(frames):
        outcomes = learner.run(block, at)
        lengths.append(len(outcomes))
        for t in range(len(outcomes)):
            assert_same(outcomes.outcome(t), alone._step(frames[at + t]))
        at += len(outcomes)
    assert_same(learner, alone)
    assert lengths[-4:] == [4, 1, 4, 1]


def test_ticks_that_differ_are_not_recorded(learner_of: LearnerOf, frames_of: FramesOf) -> None:
    learner = learner_of("gru", "adaptive_tbptt", n_lanes=B)
    go_the_same_way(learner, frames_of(15, n_lanes=B))
    assert learner._recorded is None


def test_an_outcome_stays_as_it_was(learner_of: LearnerOf, frames_of: FramesOf) -> None:
    learner = learner_of("gru", "kf", n_lanes=B)
    outcomes = [learner.step(frame) for frame in frames_of(8, n_lanes=B)]
    kept = [copy.deepcopy(vars_of(outcome)) for outcome in outcomes]
    for frame in frames_of(4, n_lanes=B, seed=7):
        learner.step(frame)
    for outcome, was in zip(outcomes, kept, strict=True):
        assert all(same(value, was[name]) for name, value in vars_of(outcome).items())


def test_a_tape_notices_what_it_cannot_repeat() -> None:
    a = torch.ones(3)
    for tick, is_whole in (
        (lambda: a.add_(1.0), True),
        (lambda: float(a.sum()), False),
        (lambda: a.add_(torch.rand(3)), False),
        (a.uniform_, False),
        (lambda: bool(a.any()), False),
    ):
        tape = Tape()
        tape.record(tick)  # type: ignore[arg-type]
        assert tape.is_whole == is_whole


def test_a_tape_makes_anew_what_was_a_constant_and_is_written_to() -> None:
    x, total = torch.zeros(3), torch.zeros(3)

    def tick() -> None:
        sums = torch.zeros(3)
        sums[1:] += x[1:]
        ones = torch.ones(3) * 2
        sums += ones
        total.copy_(sums)

    tape = Tape()
    tape.record(tick)
    for value in (1.0, 5.0):
        x.fill_(value)
        tape.play()
        assert total.tolist() == [2.0, 2.0 + value, 2.0 + value]


def test_the_place_of_a_gpus_generator_after_part_of_a_run() -> None:
    def state(seed: int, place: int) -> Tensor:
        return torch.tensor([seed, place]).view(torch.uint8)

    found = drawn_for(state(7, 1000), state(7, 1000 + 4 * 64), taken=3, n=64)
    assert found.view(torch.int64).tolist() == [7, 1012]
    assert torch.equal(drawn_for(state(7, 8), state(7, 8), 1, 2), state(7, 8))


def on_gpu(kind: str, rule: str, learner_of: LearnerOf, dtype: torch.dtype) -> Learner:
    def credit(cell: Any, n_lanes: int) -> Any:
        if rule == "locked":
            return Tbptt(cell, n_lanes, window=6, every=4)
        make: Any = RULES[rule]
        if rule not in ("kf", "ok", "uoro"):
            return make(cell, n_lanes)
        return make(cell, n_lanes, torch.Generator("cuda").manual_seed(1))

    return learner_of(kind, credit, n_lanes=B, dtype=dtype, device="cuda")


def there(frames: list[Frame]) -> list[Frame]:
    return [Frame(f.x_BI.cuda(), f.y_BQ.cuda(), f.live_B.cuda(), f.scored_B.cuda()) for f in frames]


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rule", [*REPEATING, "locked"])
@pytest.mark.parametrize("kind", list(CELLS))
def test_a_graph_gives_the_bits_of_the_tick_it_captured(
    kind: str, rule: str, dtype: torch.dtype, learner_of: LearnerOf, frames_of: FramesOf
) -> None:
    learner, alone = (on_gpu(kind, rule, learner_of, dtype) for _ in range(2))
    frames = there(accidents(frames_of(30, n_lanes=B, idle=0.2, dtype=dtype)))
    for frame in frames:
        assert_same(learner.step(frame), alone._step(frame))
    assert_same(learner, alone)
    assert is_playing(learner)


@pytest.mark.gpu
@pytest.mark.parametrize("rule", ["kf", "ok", "uoro", "rtrl"])
def test_a_run_of_graphs_ends_where_somebody_must_hear_of_it(
    rule: str, learner_of: LearnerOf, frames_of: FramesOf
) -> None:
    learner, alone = (on_gpu("gru", rule, learner_of, torch.float32) for _ in range(2))
    frames = there(frames_of(3 * ROWS, n_lanes=B, idle=0.2, dtype=torch.float32))
    frames[90].y_BQ[:] = 1e9
    lengths: list[int] = []
    block, at = block_of(frames), 0
    while at < len(frames):
        if len(lengths) == 5:  # the next tick restarts the credit of lane 1
            for each in (learner, alone):
                for name, tensor in each.recurrence.lane_state.items():
                    if name.startswith("credit."):
                        tensor[1] = torch.nan
        outcomes = learner.run(block, at)
        lengths.append(len(outcomes))
        for t in range(len(outcomes)):
            assert_same(outcomes.outcome(t), alone._step(frames[at + t]))
        at += len(outcomes)
    assert_same(learner, alone)  # the place of the generator among it
    assert max(lengths) > 20
    assert is_playing(learner)
