"""With products in TF32 a GPU pushes the influence so, and nothing else of an observation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from stream_rnn.cells import Lstm
from stream_rnn.credit import Kf, Ok
from stream_rnn.credit.base import Noisy
from stream_rnn.linearization import Products, products_in
from stream_rnn.native import loading

RULES: dict[str, Callable[..., Noisy]] = {
    "kf": Kf,
    "ok": lambda *args, **rest: Ok(*args, rank=2, **rest),
    "ok by row": lambda *args, **rest: Ok(*args, rank=2, chunks="row", **rest),
}
SETTINGS: Any = torch.backends.cuda.matmul


def is_tf32() -> bool:
    if hasattr(SETTINGS, "fp32_precision"):  # beside it, the older name raises
        return bool(SETTINGS.fp32_precision == "tf32")
    return bool(SETTINGS.allow_tf32)


class Watching(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes how each product of matrices would be taken on a GPU: its operands, and whether in
    TF32."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: list[tuple[tuple[Tensor, Tensor], bool]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func._schema.name in ("aten::mm", "aten::bmm"):
            self.seen.append((args[:2], is_tf32()))
        return func(*args, **(kwargs or {}))


@pytest.fixture(params=["highest", "high"])
def elsewhere(request: pytest.FixtureRequest) -> Iterator[str]:
    """What the process itself asks of its products."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(request.param)
    yield request.param
    torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("products", ["float32", "tf32"])
@pytest.mark.parametrize("rule", RULES)
def test_only_the_push_is_taken_in_tf32(rule: str, products: Products, elsewhere: str) -> None:
    cell = Lstm(2, 3)
    generator = torch.Generator().manual_seed(0)
    credit = RULES[rule](cell, 2, generator, products=products)
    W_ZM = cell.initial_weight(generator).float()
    s_BS, lin = cell.step(W_ZM, torch.randn(2, 2), torch.zeros(2, cell.n_state))
    with loading.switched_off(), Watching() as watching:
        credit.observe(lin, torch.ones_like(s_BS), torch.ones(2, dtype=torch.bool))
    J_BSN = lin.J_h_BSN()
    pushes = [tf32 for (left, _), tf32 in watching.seen if left is J_BSN]
    others = [tf32 for (left, _), tf32 in watching.seen if left is not J_BSN]
    assert pushes
    assert set(pushes) == {products == "tf32"}
    gradient = ["high"] if rule == "kf" else []  # its read-out and no projection
    assert not any(others) or elsewhere in gradient
    assert torch.get_float32_matmul_precision() == elsewhere


@pytest.mark.parametrize("kind", ["float32", "tf32"])
def test_what_was_set_is_set_again_after_an_error(kind: Products, elsewhere: str) -> None:
    def fail() -> None:
        with products_in(kind):
            assert is_tf32() == (kind == "tf32")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert torch.get_float32_matmul_precision() == elsewhere


@pytest.mark.parametrize("rule", RULES)
def test_other_products_are_refused(rule: str) -> None:
    with pytest.raises(ValueError, match=r'products must be "float32" or "tf32", got \'half\''):
        RULES[rule](Lstm(2, 3), 1, torch.Generator(), products="half")


@pytest.mark.gpu
@pytest.mark.parametrize("rule", RULES)
def test_on_a_gpu_the_push_is_coarser_and_the_rest_is_not(rule: str) -> None:
    cell, found = Lstm(8, 64), {}
    weights = torch.Generator().manual_seed(0)
    W_ZM = cell.initial_weight(weights).float().cuda()
    x_TBI = torch.randn(20, 4, 8, generator=weights).cuda()
    for products in ("float32", "tf32"):
        signs = torch.Generator("cuda").manual_seed(0)
        credit = RULES[rule](cell, 4, signs, products=products)
        s_BS = torch.zeros(4, cell.n_state, device="cuda")
        live_B = torch.ones(4, dtype=torch.bool, device="cuda")
        for x_BI in x_TBI:
            s_BS, lin = cell.step(W_ZM, x_BI, s_BS)
            credit.observe(lin, torch.ones_like(s_BS), live_B)
        found[products] = credit.gradient()
        assert credit.healthy().all()
    change = (found["tf32"] - found["float32"]).norm() / found["float32"].norm()
    assert 1e-6 < float(change) < 2e-2
