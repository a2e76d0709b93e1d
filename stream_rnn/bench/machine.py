"""What this machine can do at best: products by every library at hand, and memory by level.

Axes: N units, S = K*N, Z = G*N, R columns.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from stream_rnn.bench.clock import Runs, medians_us, small_operation
from stream_rnn.native import loading
from stream_rnn.native.loading import PANEL, Library

SIZES = (64, 128, 256, 512)  # of square products
WORKING_SETS = (1 << 15, 1 << 18, 1 << 21, 1 << 24, 1 << 27)  # bytes
ONCE_US = 20.0  # a timed run takes about this long, so that reading the clock does not show
Run = tuple[int, Callable[[], object]]


@dataclass(frozen=True)
class Machine:
    """The rates of one run.

    Attributes:
        small_us: of one small in-place operation of torch.
        products: library -> its best rate in operations (a multiply-add is two) per microsecond.
        memory: working set in bytes -> bytes read and written per microsecond, the best of all
            ways; nothing that is larger is faster.
    """

    small_us: float
    products: dict[str, float]
    memory: dict[int, float]

    @property
    def best_product(self) -> float:
        """The rate of whoever multiplies best, in operations per microsecond."""
        return max(self.products.values())

    def bandwidth(self, n_bytes: int) -> float:
        """Bytes per microsecond of a working set of this size."""
        return next((rate for size, rate in self.memory.items() if n_bytes <= size), self._last)

    @property
    def _last(self) -> float:
        return list(self.memory.values())[-1]


def measure(seconds: float) -> Machine:
    """All rates, in about so many seconds."""
    library = loading.find()
    small_us = medians_us({"small": small_operation()}, seconds / 10)["small"]
    products: dict[str, float] = {}
    for n in SIZES:
        for name, took_us in medians_us(_products(n, library), seconds / 10).items():
            products[name] = max(products.get(name, 0.0), 2 * n**3 / took_us)
    rates = []
    for size in WORKING_SETS:
        took = medians_us(_passes(size, library), seconds / 10)
        rates.append(max(2 * size / took_us for took_us in took.values()))
    # what fits a smaller level is never slower than what does not
    memory = {size: max(rates[i:]) for i, size in enumerate(WORKING_SETS)}
    return Machine(small_us, products, memory)


def _products(n: int, library: Library | None) -> Runs:
    a, b, out = torch.randn(n, n), torch.randn(n, n), torch.empty(n, n)
    times = _times(2 * n**3 / 1e5)

    def often(once: Callable[[], object]) -> Run:
        return times, lambda: [once() for _ in range(times)]

    runs = {"torch.mm": often(lambda: torch.mm(a, b, out=out))}
    left, right, to = a.numpy(), b.numpy(), np.empty((n, n), dtype=np.float32)
    runs["numpy"] = often(lambda: np.matmul(left, right, out=to))
    linear = _onednn(a, b)
    if linear is not None:
        runs["oneDNN"] = often(linear)
    if library is not None:
        runs["own kernel"] = own_product(library, n, n, n, times)
    return runs


def own_product(library: Library, rows: int, depth: int, columns: int, times: int) -> Run:
    """The library's inner product on matrices of this shape, `times` times a call."""
    panels = -(-columns // PANEL)
    a, b = torch.randn(rows, depth), torch.randn(panels, depth, PANEL)
    out = torch.empty(panels, rows, PANEL)
    shape = (rows, depth, panels)

    def run(a: Tensor = a, b: Tensor = b, out: Tensor = out) -> None:
        library.multiply_often(times, shape, a.data_ptr(), b.data_ptr(), out.data_ptr())

    return times, run


def _onednn(a: Tensor, b: Tensor) -> Callable[[], object] | None:
    """The product of oneDNN, where torch has it under a name that is private and comes and goes."""
    linear = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
    if linear is None or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return None

    def run() -> object:
        return linear(a, b, None, "none", [], "")

    try:
        run()
    except (AttributeError, RuntimeError):
        return None
    return run


def _passes(n_bytes: int, library: Library | None) -> Runs:
    x = torch.ones(n_bytes // 4)
    times = _times(n_bytes / 5e4)
    runs: dict[str, Run] = {"torch": (times, lambda: [x.neg_() for _ in range(times)])}
    if library is not None:
        runs["own"] = (times, lambda: library.negate_often(times, x.numel(), x.data_ptr()))
    return runs


def _times(guess_us: float) -> int:
    return max(1, round(ONCE_US / guess_us))
