"""The reduction of OK in one launch on a GPU: `small_matrices.cu`, compiled at its first use.

Axes: Q problems, n = r + 1 summands.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

SOURCE = Path(__file__).with_name("small_matrices.cu")
LARGEST = 26
"""n, for which a warp's shared memory has room."""

_log = logging.getLogger(__name__)


def launches(gram: Tensor) -> bool:
    """Whether the reduction of these Gram matrices (2Q, n, n) is one launch."""
    if gram.device.type != "cuda" or not 2 <= gram.shape[-1] <= LARGEST:
        return False
    return _compiled(gram.device.index) is not None


def reduced(gram: Tensor, signs: Tensor) -> tuple[Tensor, Tensor]:
    """The mixing matrices (2Q, n, r) and the variance (Q,) they cost, for data in float32.

    Args:
        gram: float64 (2Q, n, n), those of all V, then those of all A.
        signs: float32 (Q, n).
    """
    n, Q = gram.shape[-1], len(signs)
    mix, variance = gram.new_empty(2 * Q, n, n - 1), gram.new_empty(Q)
    launch = _compiled(gram.device.index)
    assert launch is not None, "ask `launches` first"
    with torch.cuda.device(gram.device):  # whose stream it goes to
        launch(
            grid=(Q, 1, 1),
            block=(32, 1, 1),
            args=[gram.contiguous(), signs.contiguous(), mix, variance, n],
            shared_mem=room_bytes(n),
        )
    return mix, variance


def room_bytes(n: int) -> int:
    """Shared memory of one problem, as `Room::bytes` has it."""
    even, r = n + n % 2, n - 1
    doubles = 4 * n * n + 2 * even * n + even + n + 3 * n * r + 2
    return 8 * doubles + 4 * (2 * even + n + 2)


@functools.cache
def _compiled(device: int) -> Callable[..., None] | None:
    """The kernel on that device; None: it cannot be compiled here, and said so."""
    compile_kernel = getattr(torch.cuda, "_compile_kernel", None)  # from torch 2.9 on
    if compile_kernel is None:
        _log.warning("this torch compiles no kernel: the reduction of OK takes many launches")
        return None
    try:
        with torch.cuda.device(device), _without_headers():
            kernel: Callable[..., None] = compile_kernel(SOURCE.read_text("utf-8"), "reduce")
    except (RuntimeError, OSError, ImportError) as error:
        _log.warning("the reduction of OK takes many launches, its kernel fails: %s", error)
        return None
    return kernel


@contextmanager
def _without_headers() -> Iterator[None]:
    """The source includes nothing; torch would raise where CUDA's headers are not installed."""
    from torch.utils import cpp_extension

    home = cpp_extension.CUDA_HOME
    cpp_extension.CUDA_HOME = home or "."
    try:
        yield
    finally:
        cpp_extension.CUDA_HOME = home
