"""The benchmark of threads over lanes: who has how many, and what it prints."""

from __future__ import annotations

import pytest
import torch

from benchmarks import threads
from stream_rnn.bench.cases import Case
from stream_rnn.native import loading


def test_each_is_measured_on_as_many_threads_as_it_says(
    monkeypatch: pytest.MonkeyPatch, kernels: loading.Library, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(threads, "CASES", (Case("tanh", "kf", 16, 8),))
    seen: list[int] = []
    run_all = threads.run_all

    def watched(learner: object, block: object) -> int:
        taken = run_all(learner, block)  # type: ignore[arg-type]
        seen.append(learner._plan._plan.credit.threads)  # type: ignore[attr-defined]
        return taken

    monkeypatch.setattr(threads, "run_all", watched)
    before = torch.get_num_threads()
    assert threads.main(["--threads", "3", "--rounds", "2"]) == 0
    assert seen == [1, 3] * 3  # to make room, then in turns
    assert torch.get_num_threads() == before
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].startswith("| tanh kf | 16 | 8 | ")


def test_without_the_library_it_says_that_it_is_skipped(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with loading.switched_off():
        assert threads.main([]) == 0
    assert "skipped" in capsys.readouterr().err


def test_the_ratio_is_of_medians_and_at_best_of_the_shortest() -> None:
    line = threads.told(threads.CASES[0], {1: [4.0, 8.0, 9.0], 2: [5.0, 4.0, 2.0]})
    assert line == "| tanh kf | 64 | 64 | 8 | 4 | 2.00 (2.00) |"
