"""The kernel that reduces OK on a GPU: here its source as C++, a warp being a loop."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from stream_rnn.cells import Cell, Lstm
from stream_rnn.credit import Ok, ok
from stream_rnn.credit.small_matrices_on_gpu import LARGEST, SOURCE, reduced, room_bytes
from stream_rnn.frame import Frame
from stream_rnn.learner import Learner
from stream_rnn.native import loading

Reduce = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
SIZES = [2, 3, 4, 5, 6, 9, 10, 11, 16, 17, 25, LARGEST]
SHARED_BYTES = 48 * 1024  # what a kernel has without asking


def compiled(folder: Path, *flags: str) -> Reduce:
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("no g++ to compile the kernel's source with")
    path = folder / "reduce.so"
    common = ("-std=gnu++17", "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-x", "c++")
    subprocess.run([compiler, *common, *flags, str(SOURCE), "-o", str(path)], check=True)
    entry = ctypes.CDLL(str(path)).reduce
    entry.restype, pointer = None, ctypes.c_void_p
    entry.argtypes = (pointer, pointer, pointer, pointer, ctypes.c_int, ctypes.c_int)

    def reduce(gram: Tensor, signs: Tensor) -> tuple[Tensor, Tensor]:
        n, Q = gram.shape[-1], len(signs)
        mix, variance = gram.new_zeros(2 * Q, n, n - 1), gram.new_zeros(Q)
        entry(*(t.data_ptr() for t in (gram, signs, mix, variance)), n, Q)
        return mix, variance

    return reduce


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Reduce:
    checks = ("-fsanitize=undefined", "-fno-sanitize-recover=all")
    return compiled(tmp_path_factory.mktemp("kernel"), *checks)


def problems(n: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """V (Q, 30, n), A (Q, 40, n), and signs; of very different sizes, some columns dependent."""
    Q = 4
    generator = torch.Generator().manual_seed(seed)

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    V, A = noise(Q, 30, n), noise(Q, 40, n) * torch.logspace(0, -4, n, dtype=torch.float64)
    A[1, :, -1] = 0  # a column of zeros, and all of them
    V[2] = A[2] = 0
    if n > 2:
        V[3, :, 1] = V[3, :, 0]
    signs = torch.randint(0, 2, (Q, n), generator=generator).mul(2).sub(1).float()
    return V, A, signs


def gram_of(V: Tensor, A: Tensor) -> Tensor:
    return torch.cat((V.mT @ V, A.mT @ A))


def in_torch(gram: Tensor, V: Tensor, signs: Tensor) -> tuple[Tensor, Tensor]:
    """What `Ok` does on a processor with data in float32."""
    n = gram.shape[-1]
    cell = Lstm(2, 3)
    rule = Ok(cell, len(signs), None, rank=n - 1, chunks="joint", signs=signs.view)
    data = V.float()
    mix_V, mix_A, variance_Q = rule._reduce(gram, data, data)
    return torch.cat((mix_V, mix_A)), variance_Q


@pytest.mark.parametrize("n", SIZES)
def test_the_kernel_reduces_as_torch_does(n: int, kernel: Reduce) -> None:
    V, A, signs = problems(n)
    gram = gram_of(V, A)
    mix, variance = kernel(gram, signs)
    expected, expected_variance = in_torch(gram, V, signs)
    Q = len(signs)
    assert torch.isfinite(mix).all()
    # the product of both sides, which no choice of basis changes
    size = torch.linalg.matrix_norm(V @ A.mT)
    found, other = ((V @ m[:Q]) @ (A @ m[Q:]).mT for m in (mix, expected))
    assert (torch.linalg.matrix_norm(found - other) <= 1e-6 * size).all()
    assert torch.allclose(
        variance, expected_variance, rtol=1e-6, atol=1e-9 * float(size.max() ** 2)
    )


@pytest.fixture(scope="module")
def backwards(tmp_path_factory: pytest.TempPathFactory) -> Reduce:
    return compiled(tmp_path_factory.mktemp("kernel"), "-DBACKWARDS")


@pytest.mark.parametrize("n", SIZES)
def test_no_thread_of_a_warp_runs_ahead_of_another(
    n: int, kernel: Reduce, backwards: Reduce
) -> None:
    V, A, signs = problems(n)
    gram = gram_of(V, A)
    for found, expected in zip(backwards(gram, signs), kernel(gram, signs), strict=True):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("n", [3, 4])
def test_the_kernels_mean_over_all_signs_is_the_truth(n: int, kernel: Reduce) -> None:
    V, A = (each[:1] for each in problems(n)[:2])
    every = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * n)
    Q = len(every)
    gram = gram_of(V.expand(Q, -1, -1), A.expand(Q, -1, -1)).contiguous()
    mix, variance = kernel(gram, every)
    estimates = (V @ mix[:Q]) @ (A @ mix[Q:]).mT
    truth = (V @ A.mT)[0]
    assert torch.linalg.norm(estimates.mean(0) - truth) < 1e-12 * torch.linalg.norm(truth)
    errors = (estimates - truth).square().sum((1, 2)).mean()
    assert float(variance[0]) == pytest.approx(float(errors), rel=1e-9)


@pytest.mark.parametrize("chunks", ["joint", "gate", "row"])
def test_ok_hands_its_problems_over(
    chunks: Any,
    kernel: Reduce,
    monkeypatch: pytest.MonkeyPatch,
    learner_of: Callable[..., Learner],
    frames_of: Callable[..., list[Frame]],
) -> None:
    def rule(cell: Cell, n_lanes: int) -> Ok:
        generator = torch.Generator().manual_seed(1)
        return Ok(cell, n_lanes, generator, rank=3, chunks=chunks)

    learners = [learner_of("lstm", rule, dtype=torch.float32) for _ in range(2)]
    asked: list[int] = []

    def launched(gram: Tensor, signs: Tensor) -> tuple[Tensor, Tensor]:
        asked.append(len(signs))
        return kernel(gram.contiguous(), signs.contiguous())

    with loading.switched_off():
        for learner, has_kernel in zip(learners, (True, False), strict=True):
            with monkeypatch.context() as patch:
                patch.setattr(ok, "launches", lambda gram, answer=has_kernel: answer)
                patch.setattr(ok, "reduced", launched)
                for frame in frames_of(15, dtype=torch.float32):
                    learner.step(frame)
    assert len(asked) == 15
    one, other = (learner.recurrence.parameters()[0] for learner in learners)
    assert torch.allclose(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("n", range(2, LARGEST + 1))
def test_a_problem_has_room(n: int) -> None:
    assert room_bytes(n) <= SHARED_BYTES


def test_the_sources_limit_is_the_one_that_is_asked_for() -> None:
    assert f"constexpr int MOST = {LARGEST};" in Path(SOURCE).read_text(encoding="utf-8")


@pytest.mark.gpu
@pytest.mark.parametrize("n", SIZES)
def test_on_a_gpu_it_is_the_same(n: int, kernel: Reduce) -> None:
    V, A, signs = problems(n)
    gram = gram_of(V, A)
    expected: Any = kernel(gram, signs)
    found = reduced(gram.cuda(), signs.cuda())
    for mine, other in zip(found, expected, strict=True):
        assert torch.allclose(mine.cpu(), other, rtol=1e-6, atol=1e-9 * float(other.abs().max()))
