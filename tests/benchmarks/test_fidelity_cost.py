"""The benchmark of what the live fidelity costs."""

from __future__ import annotations

import pytest
import torch

from benchmarks import fidelity


def test_every_case_is_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(fidelity, "OFTEN", 70)
    monkeypatch.setattr(fidelity, "SECONDS", 0.01)
    monkeypatch.setattr(fidelity, "CASES", fidelity.CASES[::2])
    threads = torch.get_num_threads()
    try:
        fidelity.main()
    finally:
        torch.set_num_threads(threads)
    rows = capsys.readouterr().out.splitlines()[4:]
    assert [row.split("|")[2].strip() for row in rows] == ["ok(3)", "tbptt(32)"]
