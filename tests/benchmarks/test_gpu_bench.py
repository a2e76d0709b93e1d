"""The benchmark of ticks on a GPU, as far as it goes without one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks import gpu
from stream_rnn.bench.cases import INPUTS
from stream_rnn.native import loading
from stream_rnn.plan import recorded


def test_its_rows_are_measured_and_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(recorded.BEFORE, "cpu", 2)  # the benchmark sets it, too
    monkeypatch.setattr(gpu, "TICKS", 2)
    monkeypatch.setattr(gpu, "ROUNDS", 1)
    monkeypatch.setattr(gpu, "sizes", lambda device, room: [gpu.Size("rhn", 2, 4, 2, steps=100)])
    threads = torch.get_num_threads()
    try:
        assert gpu.main(["--device", "cpu", "--json", str(tmp_path / "rows.json")]) == 0
    finally:
        torch.set_num_threads(threads)
    (row,) = json.loads((tmp_path / "rows.json").read_text())
    assert row["name"] == "rhn ok(2) N=4 B=2"
    assert 150 < row["operations"] < 400
    assert min(row["launched_us"], row["played_us"], row["floor_us"]) > 0
    assert "100 ticks in" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("cell", "rank", "most"),
    [("tanh", 0, 97), ("lstm", 0, 123), ("rhn", 0, 105), ("rhn", 8, 888), ("tanh", 1, 177)],
)
def test_how_many_operations_a_tick_is_made_of(cell: str, rank: int, most: int) -> None:
    """Each costs a launch on a GPU, and on a processor what it takes to find its kernel."""
    size = gpu.Size(cell, rank, 6, 1)
    with loading.switched_off(), torch.no_grad():
        learner, block = size.learner("cpu"), size.block("cpu")
        gpu.operations(learner, block)  # what is made at first use
        assert most - 12 < gpu.operations(learner, block) <= most


def test_the_floor_counts_the_push_and_the_influence() -> None:
    size = gpu.Size("lstm", 3, 5, 7)
    assert size.influence() == 7 * 10 * 20 * 3  # lanes, S, Z, rank
    assert size.operations() == 2 * 5 * size.influence()
    assert size.bytes() == 2 * 4 * (size.influence() + 3 * 20 * (INPUTS + 5 + 1))


@pytest.mark.parametrize("room", [1 << 30, 100 << 30])
def test_no_size_is_larger_than_the_device(room: int) -> None:
    found = list(gpu.sizes("cuda", room))[2:]
    assert all(4 * gpu.WORKSPACE * size.influence() <= room for size in found)
    assert max(size.lanes for size in found) > 1000


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_that_it_is_skipped(capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.main([]) == 0
    assert "skipped: no GPU" in capsys.readouterr().err
