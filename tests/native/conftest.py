"""The library, built once for all of these tests; they are skipped where it cannot be."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from stream_rnn.native import loading
from stream_rnn.native.build import BuildError, build

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The user's library if it is built already, else one in a folder of this run."""
    with pytest.MonkeyPatch.context() as patch:
        if loading.find() is None:
            patch.setenv("STREAM_RNN_CACHE", str(tmp_path_factory.mktemp("cache")))
        try:
            return build()
        except BuildError as error:
            pytest.skip(f"the native library cannot be built here: {error}")


@pytest.fixture
def kernels(built: Path) -> Iterator[loading.Library]:
    """The library, in use for the time of one test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("STREAM_RNN_NATIVE", raising=False)
        loaded = loading.Library(built)
        patch.setattr(loading, "_found", loaded)
        yield loaded


@pytest.fixture
def nothing_found_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    """`find` looks anew in this test, and after it finds what it found before."""
    monkeypatch.setattr(loading, "_found", None)
    monkeypatch.setattr(loading, "_why", None)
