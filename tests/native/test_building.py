"""The library is built by an explicit command, once; without it everything works and says so."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from stream_rnn.cells import Tanh
from stream_rnn.credit import Kf
from stream_rnn.native import __main__ as command
from stream_rnn.native import build as building
from stream_rnn.native import loading


def test_what_is_built_is_not_built_again(
    built: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    nothing_found_yet: None,
) -> None:
    monkeypatch.setenv("STREAM_RNN_CACHE", str(built.parents[1]))
    monkeypatch.setenv("CXX", "/nonexistent/compiler")  # it would fail if it were asked
    if building.folder() != built.parent:
        pytest.skip("the user's library lies in another folder")
    before = built.stat().st_mtime_ns
    assert building.build() == built
    assert built.stat().st_mtime_ns == before
    assert command.main() == 0
    assert f"{built}: is there" in capsys.readouterr().out


def test_other_sources_are_another_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(building.SOURCES, tmp_path / "source")
    monkeypatch.setattr(building, "SOURCES", tmp_path / "source")
    same = building.built_path()
    (tmp_path / "source" / "simd.hpp").write_text("// other")
    assert building.built_path() != same
    monkeypatch.undo()
    assert building.built_path().name == same.name


@pytest.mark.parametrize(
    ("compiler", "message"),
    [
        ("/nonexistent/compiler", "'/nonexistent/compiler' cannot be started"),
        (shutil.which("false") or "false", "the compiler failed"),
    ],
)
def test_a_compiler_that_fails_is_named(
    compiler: str,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("STREAM_RNN_CACHE", str(tmp_path))
    monkeypatch.setenv("CXX", compiler)
    assert command.main() == 1
    assert message in capsys.readouterr().err
    assert not list(building.folder().iterdir())


def test_no_compiler_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAM_RNN_CACHE", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(building.BuildError, match="apt install"):
        building.build()


@pytest.mark.usefixtures("nothing_found_yet")
def test_without_the_library_a_rule_learns_and_the_banner_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STREAM_RNN_CACHE", str(tmp_path))
    assert loading.find() is None
    assert loading.describe() == (
        "no native kernels: not built (python -m stream_rnn.native builds it)"
    )
    assert loading.path_name() == "torch"
    cell = Tanh(2, 3)
    rule = Kf(cell, 1, torch.Generator().manual_seed(0))
    W_ZM = cell.initial_weight().float()
    _, lin = cell.step(W_ZM, torch.ones(1, 2), torch.zeros(1, 3))
    rule.observe(lin, torch.ones(1, 3), torch.tensor([True]))
    torch.testing.assert_close(rule.gradient(), lin.pull_drive(torch.ones(1, 3)).T @ lin.u_BM)
    assert not list(tmp_path.iterdir())  # nobody built anything


@pytest.mark.usefixtures("nothing_found_yet")
def test_it_can_be_switched_off(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "built_path", lambda: built)
    monkeypatch.setenv("STREAM_RNN_NATIVE", "off")
    assert loading.find() is None
    assert "switched off" in loading.describe()
    monkeypatch.delenv("STREAM_RNN_NATIVE")
    loading.forget()
    assert loading.find() is not None
    assert loading.path_name().startswith("native-")
    with loading.switched_off():
        assert loading.find() is None


@pytest.mark.usefixtures("nothing_found_yet")
def test_a_library_that_others_may_write_is_not_loaded(
    built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "step.so"
    shutil.copy(built, copy)
    copy.chmod(0o666)
    monkeypatch.setattr(loading, "built_path", lambda: copy)
    monkeypatch.delenv("STREAM_RNN_NATIVE", raising=False)
    assert loading.find() is None
    assert "may be changed by others" in loading.describe()


@pytest.mark.parametrize("content", [b"", b"no library at all"])
@pytest.mark.usefixtures("nothing_found_yet")
def test_a_broken_file_is_not_fatal(
    content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "step.so"
    path.write_bytes(content)
    path.chmod(0o600)
    tmp_path.chmod(0o700)
    monkeypatch.setattr(loading, "built_path", lambda: path)
    monkeypatch.delenv("STREAM_RNN_NATIVE", raising=False)
    assert loading.find() is None
    assert "cannot be used" in loading.describe()


@pytest.mark.usefixtures("nothing_found_yet")
def test_an_instruction_set_that_is_not_there_is_refused(
    built: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "built_path", lambda: built)
    monkeypatch.setenv("STREAM_RNN_NATIVE", "abacus")
    assert loading.find() is None
    assert "this processor runs" in loading.describe()
