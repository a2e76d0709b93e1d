"""What `stream-rnn bench` times of the library does what it is timed for."""

from __future__ import annotations

import pytest
import torch

from stream_rnn.native.loading import PANEL, Library


@pytest.mark.parametrize(("rows", "depth", "panels"), [(1, 3, 1), (37, 20, 2), (64, 32, 3)])
def test_the_product_is_one(kernels: Library, rows: int, depth: int, panels: int) -> None:
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(rows, depth, generator=generator)
    b = torch.randn(panels, depth, PANEL, generator=generator)
    out = torch.zeros(panels, rows, PANEL)
    kernels.multiply_often(2, (rows, depth, panels), a.data_ptr(), b.data_ptr(), out.data_ptr())
    torch.testing.assert_close(out, a @ b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("n", [1, 64, 1000])
def test_every_number_is_read_and_written_each_time(kernels: Library, n: int) -> None:
    x = torch.arange(1.0, n + 3)
    kernels.negate_often(3, n, x.data_ptr())
    assert torch.equal(x[:n], -torch.arange(1.0, n + 1))
    assert torch.equal(x[n:], torch.tensor([n + 1.0, n + 2.0]))  # and no other
