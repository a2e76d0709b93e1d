"""Signs are drawn ahead in blocks, and nobody can tell: not by the signs, not by the state."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch import Tensor

from stream_rnn.cells import Tanh
from stream_rnn.credit import Kf, Ok
from stream_rnn.credit.signs import AT_ONCE, SignStream


def one_by_one(generator: torch.Generator, shape: tuple[int, ...]) -> Tensor:
    return torch.randint(0, 2, shape, generator=generator).mul_(2).sub_(1).float()


@pytest.mark.parametrize("shapes", [[(3, 2)], [(1, 2), (2, 4, 9)], [(1,), (AT_ONCE + 7,), (5,)]])
def test_signs_and_state_are_those_of_drawing_one_by_one(shapes: list[tuple[int, ...]]) -> None:
    ahead, truth = (torch.Generator().manual_seed(1) for _ in range(2))
    stream = SignStream.of(ahead)
    for t in range(600):
        shape = shapes[t % len(shapes)]
        assert torch.equal(stream.take(shape), one_by_one(truth, shape))
        if t % 50 == 0:
            assert torch.equal(stream.state(), truth.get_state())
    assert torch.equal(stream.state(), truth.get_state())


def test_a_restored_stream_goes_on_from_there() -> None:
    generator = torch.Generator().manual_seed(1)
    stream = SignStream.of(generator)
    stream.take((3, 5))
    state = stream.state()
    next_signs = stream.take((4, 4)).clone()
    other = SignStream.of(torch.Generator())
    with pytest.raises(AssertionError, match="keeps its generator"):
        other.take((1,))
    fresh = torch.Generator().manual_seed(9)
    other = SignStream.of(fresh)
    other.take((2,))
    other.restore(state)
    assert torch.equal(other.take((4, 4)), next_signs)


def test_rules_that_share_a_generator_share_its_signs() -> None:
    shared, alone = (torch.Generator().manual_seed(2) for _ in range(2))
    cell = Tanh(2, 3)
    kf, ok = Kf(cell, 2, shared), Ok(cell, 2, shared, rank=3)
    for _ in range(40):
        for rule in (kf, ok, ok):
            assert torch.equal(rule.draw_signs(), one_by_one(alone, rule.signs_shape))
        assert torch.equal(kf.state_dict()["generator"], alone.get_state())
        assert torch.equal(ok.state_dict()["generator"], alone.get_state())


def test_a_generator_is_not_kept_alive() -> None:
    generator = torch.Generator()
    gone = weakref.ref(generator)
    SignStream.of(generator).take((3,))
    del generator
    gc.collect()
    assert gone() is None


def test_signs_of_another_shape_are_refused() -> None:
    rule = Kf(Tanh(1, 1), 2, signs=lambda shape: torch.ones(shape[0]))
    with pytest.raises(ValueError, match=r"signs: expected \(2, 2\), got \(2,\)"):
        rule.draw_signs()
