"""Updates equal torch.optim where `ok`, and leave everything bitwise where not. float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from stream_rnn.update import UPDATES, Adam, Fptt, Obgd, Sgd, Update

SHAPES = [(3, 4), (2,)]
YES, NO = torch.tensor(True), torch.tensor(False)
CASES: dict[str, tuple[Any, Any]] = {
    "adam": (
        lambda clip: Adam(lr=0.02, clip=clip),
        lambda params: torch.optim.Adam(params, lr=0.02),
    ),
    "adam-other-betas": (
        lambda clip: Adam(lr=0.02, beta1=0.0, beta2=0.9, eps=1e-4, clip=clip),
        lambda params: torch.optim.Adam(params, lr=0.02, betas=(0.0, 0.9), eps=1e-4),
    ),
    "sgd": (lambda clip: Sgd(lr=0.02, clip=clip), lambda params: torch.optim.SGD(params, lr=0.02)),
    "sgd-momentum": (
        lambda clip: Sgd(lr=0.02, momentum=0.9, clip=clip),
        lambda params: torch.optim.SGD(params, lr=0.02, momentum=0.9),
    ),
}


NOT_IN_TORCH: dict[str, Any] = {
    "obgd": (lambda clip: Obgd(kappa=1.5), None),
    "fptt-adam": (lambda clip: Fptt(Adam(lr=0.02, clip=clip)), None),
    "fptt-momentum": (lambda clip: Fptt(Sgd(lr=0.02, momentum=0.9, clip=clip), 0.5, 0.3), None),
}
ALL = CASES | NOT_IN_TORCH


def noise(seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in SHAPES]


@pytest.mark.parametrize("clip", [None, 1.5])
@pytest.mark.parametrize("case", CASES)
def test_fifty_steps_equal_torch_optim(case: str, clip: float | None) -> None:
    make, make_theirs = CASES[case]
    ours, theirs = noise(0), [param.requires_grad_() for param in noise(0)]
    update, optimizer = make(clip), make_theirs(theirs)
    for t in range(50):
        grads = noise(t + 1)
        for param, grad in zip(theirs, grads, strict=True):
            param.grad = grad.clone()
        if clip is not None:
            torch.nn.utils.clip_grad_norm_(theirs, clip)
        optimizer.step()
        assert update.step(ours, grads, YES)
    # torch clips to clip * norm / (norm + 1e-6): a relative difference of 1e-6 / norm at most
    atol = 1e-12 if clip is None else 1e-5
    for mine, theirs_param in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, theirs_param.detach(), rtol=0, atol=atol)


def clipped(name: str, clip: float) -> Update:
    made: dict[str, Callable[[], Update]] = {
        "adam": lambda: Adam(clip=clip),
        "sgd": lambda: Sgd(clip=clip),
        "obgd": Obgd,  # has bounds of its own
        "fptt": lambda: Fptt(Adam(clip=clip)),
    }
    return made[name]()


@pytest.mark.parametrize("name", UPDATES)
def test_clipping_scales_all_gradients_to_the_norm_and_small_ones_not_at_all(name: str) -> None:
    for factor, expected in ((100.0, 1.0), (1e-3, None)):
        grads = [grad * factor for grad in noise(1)]
        norm = float(torch.cat([grad.flatten() for grad in grads]).norm())
        params = [torch.zeros_like(grad) for grad in grads]
        Sgd(lr=1.0, clip=1.0).step(params, grads, YES)
        moved = float(torch.cat([param.flatten() for param in params]).norm())
        assert moved == pytest.approx(expected or norm, rel=1e-12)
        update = clipped(name, 1.0)
        update.step([torch.zeros_like(grad) for grad in grads], grads, YES)
        assert float(update.report()["gradient_norm"]) == pytest.approx(norm)  # before clipping


def test_adam_refuses_a_view_with_gaps_instead_of_writing_beside_it() -> None:
    whole = torch.zeros(3, 6, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"parameter 1 is a view with gaps: hand in its .contig"):
        Adam().step([torch.zeros(3, 2), whole[:, :2]], [torch.ones(3, 2)] * 2, YES)
    assert not whole.any()


@pytest.mark.parametrize("shape", [(2, 2), (4,), (4, 3), (3, 5)])
def test_adam_refuses_a_gradient_of_another_shape(shape: tuple[int, ...]) -> None:
    param = torch.zeros(3, 4)
    with pytest.raises(ValueError, match=r"parameter 0 is \(3, 4\), its gradient \(\d"):
        Adam().step([param], [torch.ones(shape)], YES)
    assert not param.any()


def test_adam_refuses_parameters_that_its_moments_do_not_fit() -> None:
    update, large = Adam(), torch.zeros(30, 4)
    update.step([torch.zeros(3, 4)], [torch.ones(3, 4)], YES)
    with pytest.raises(ValueError, match=r"parameter 0 is \(30, 4\), .* moments \(3, 4\)"):
        update.step([large], [torch.ones(30, 4)], YES)
    with pytest.raises(ValueError, match="2 parameters, but 2 gradients, and moments of 1"):
        update.step([torch.zeros(3, 4)] * 2, [torch.ones(3, 4)] * 2, YES)
    assert not large.any()


def snapshot(update: Update, params: list[Tensor]) -> dict[str, Tensor]:
    tensors = {f"param.{i}": param for i, param in enumerate(params)} | update.state_dict()
    return {name: tensor.clone() for name, tensor in tensors.items()}


@pytest.mark.parametrize("reason", ["not ok", "nan", "inf", "overflow"])
@pytest.mark.parametrize("case", ALL)
def test_a_refused_step_leaves_every_tensor_bitwise(case: str, reason: str) -> None:
    update: Update = ALL[case][0](1.0)
    params = noise(0)
    update.step(params, noise(1), YES)
    before = snapshot(update, params)
    grads = noise(2)
    poison = {"nan": torch.nan, "inf": torch.inf, "overflow": 1e200, "not ok": 0.5}[reason]
    grads[0][1, 2] = poison
    updated = update.step(params, grads, NO if reason == "not ok" else YES)
    assert updated.dtype == torch.bool
    assert not updated
    after = snapshot(update, params)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("case", ALL)
def test_a_skipped_step_is_not_counted(case: str) -> None:
    """Skipping in between equals never having been asked."""
    make, _ = ALL[case]
    skipping, plain = make(1.0), make(1.0)
    params, others = noise(0), noise(0)
    for t in range(6):
        skipping.step(params, noise(100 + t), NO)
        skipping.step(params, noise(t), YES)
        plain.step(others, noise(t), YES)
    assert all(torch.equal(a, b) for a, b in zip(params, others, strict=True))


@pytest.mark.parametrize("case", ALL)
def test_a_loaded_update_goes_on_bit_for_bit(case: str) -> None:
    make, _ = ALL[case]
    update, resumed, params = make(1.0), make(1.0), noise(0)
    for t in range(3):
        update.step(params, noise(t), YES)
    copies = [param.clone() for param in params]
    resumed.load_state_dict(copies, {k: v.clone() for k, v in update.state_dict().items()})
    for t in range(3, 6):
        update.step(params, noise(t), YES)
        resumed.step(copies, noise(t), YES)
    assert all(torch.equal(a, b) for a, b in zip(params, copies, strict=True))


def test_a_state_of_other_parameters_is_refused() -> None:
    update, params = Adam(), noise(0)
    update.step(params, noise(1), YES)
    state = update.state_dict()
    with pytest.raises(ValueError, match=r"update state 'm\.0' does not fit"):
        Adam().load_state_dict(params[::-1], state)
    with pytest.raises(ValueError, match="update state: expected"):
        Adam().load_state_dict(params[:1], state)


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (Adam, {"lr": math.inf}, "lr must be positive and finite, got inf"),
        (Adam, {"eps": math.inf}, "eps must be positive and finite, got inf"),
        (Adam, {"lr": 0.0}, "lr must be positive and finite, got 0.0"),
        (Sgd, {"clip": -1.0}, "clip must be positive, or 0 for no limit, got -1.0"),
        (Sgd, {"momentum": 1.0}, r"momentum must be in \[0, 1\), got 1.0"),
        (Adam, {"beta2": 1.0}, r"beta2 must be in \[0, 1\), got 1.0"),
        (Adam, {"eps": 0.0}, "eps must be positive and finite, got 0.0"),
        (Obgd, {"kappa": 0.9}, "kappa must be at least 1 and finite, got 0.9"),
        (Obgd, {"kappa": math.inf}, "kappa must be at least 1 and finite, got inf"),
        (Obgd, {"kappa": math.nan}, "kappa must be at least 1 and finite, got nan"),
        (Obgd, {"lr": 0.0}, "lr must be positive and finite, got 0.0"),
        (Fptt, {"inner": Sgd(), "alpha": 0.0}, "alpha must be positive and finite, got 0.0"),
        (Fptt, {"inner": Sgd(), "beta": 0.0}, r"beta must be in \(0, 1\], got 0.0"),
    ],
)
def test_senseless_settings_are_refused(kind: Any, settings: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kind(**settings)


@pytest.mark.parametrize("clip", [None, 0.0, math.inf])
def test_no_limit_is_no_limit(clip: float | None) -> None:
    """An infinite one would turn the scale into 0 times infinity."""
    param, grad = torch.ones(3), torch.full((3,), 1e6)
    assert Sgd(lr=0.5, clip=clip).step([param], [grad], torch.tensor(True))
    assert torch.equal(param, 1 - 0.5 * grad)
