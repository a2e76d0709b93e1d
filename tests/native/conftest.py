"""The library, built once for all of these tests; they are skipped where it cannot be."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from torch import Tensor

from stream_rnn.frame import Frame, Outcome
from stream_rnn.learner import Learner
from stream_rnn.native import loading
from stream_rnn.native.build import BuildError, build

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The user's library if it is built already, else one in a folder of this run."""
    with pytest.MonkeyPatch.context() as patch:
        if loading.find() is None:
            patch.setenv("STREAM_RNN_CACHE", str(tmp_path_factory.mktemp("cache")))
        try:
            return build()
        except BuildError as error:
            pytest.skip(f"the native library cannot be built here: {error}")


@pytest.fixture
def kernels(built: Path) -> Iterator[loading.Library]:
    """The library, in use for the time of one test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("STREAM_RNN_NATIVE", raising=False)
        loaded = loading.Library(built)
        patch.setattr(loading, "_found", loaded)
        yield loaded


@pytest.fixture(params=["torch", "native"])
def path(request: pytest.FixtureRequest) -> Iterator[str]:
    """Who computes in one test: the step as it is written, or the library."""
    if request.param == "native":
        request.getfixturevalue("kernels")
    with loading.switched_off() if request.param == "torch" else nullcontext():
        yield request.param


@pytest.fixture
def nothing_found_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    """`find` looks anew in this test, and after it finds what it found before."""
    monkeypatch.setattr(loading, "_found", None)
    monkeypatch.setattr(loading, "_why", None)


class Pair:
    """A learner that has a plan, and the same one without; ticks are compared."""

    def __init__(self, make: Callable[[], Learner]) -> None:
        self.fused, self.twin = make(), make()

    def step(self, frame: Frame) -> tuple[Outcome, Outcome]:
        got = self.fused.step(frame)
        assert self.fused._plan is not None, "no plan was found"
        with loading.switched_off():
            truth = self.twin.step(frame)
        live = frame.live_B & ~truth.rejected_B  # other rows mean nothing
        near(got.prediction_BP[live], truth.prediction_BP[live])
        near(got.loss_B, truth.loss_B)
        for name in ("learned_B", "rejected_B", "restarted_B", "updated"):
            mine, theirs = getattr(got, name), getattr(truth, name)
            assert (mine is None) == (theirs is None), name
            assert mine is None or torch.equal(mine, theirs), name
        for mine, theirs in zip(self.fused.parameters(), self.twin.parameters(), strict=True):
            near(mine, theirs)
        report = self.twin.report()
        assert self.fused.report().keys() == report.keys()
        for name, value in self.fused.report().items():
            assert value == pytest.approx(report[name], rel=1e-3, abs=1e-4, nan_ok=True), name
        self.follow()
        return got, truth

    def follow(self) -> None:
        """A recurrent net amplifies roundings: the state is set back to the twin's."""
        state = {name: tensor.clone() for name, tensor in self.twin.state_dict().items()}
        for each in (self.fused, self.twin):  # of what was before neither tells anything any more
            each.load_state_dict(state)


def near(got: Tensor, truth: Tensor) -> None:
    torch.testing.assert_close(got, truth, rtol=2e-5, atol=2e-5)


@pytest.fixture
def pair_of(kernels: loading.Library) -> type[Pair]:
    """Makes pairs of learners that are compared tick by tick."""
    return Pair
