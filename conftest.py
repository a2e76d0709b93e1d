"""What a failing test leaves behind ends with it, and is charged to no other test.

A failing test's variables live on in its traceback: processes that run, sockets that are open. When
they are collected much later, Python warns of them in whatever test runs then, and that one fails,
too.
"""

from __future__ import annotations

import gc
import subprocess
import traceback
import warnings
from collections.abc import Generator
from types import TracebackType

import pytest

_tracebacks: list[TracebackType] = []  # of the test that runs


def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> None:
    """Notes what must be let go once the report is written."""
    if call.excinfo is not None and not call.excinfo.errisinstance(pytest.skip.Exception):
        error: BaseException | None = call.excinfo.value
        while error is not None:
            if error.__traceback__ is not None:
                _tracebacks.append(error.__traceback__)
            error = error.__cause__ or error.__context__


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Around everything that belongs to one test."""
    done = yield
    if _tracebacks:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the test has failed already
            _let_go()
    return done


def _let_go() -> None:
    """Close and end what only the failed test knew."""
    for each in _tracebacks:
        traceback.clear_frames(each)
        for frame, _ in traceback.walk_tb(each):
            frame.f_locals  # noqa: B018 - before Python 3.13 a copy of them, renewed by looking
    _tracebacks.clear()
    gc.collect()
    # Popen objects that are gone while their process runs; who is held by a fixture is not here.
    for process in tuple(subprocess._active):  # type: ignore[attr-defined]
        process.kill()
        process.wait()
    subprocess._cleanup()  # type: ignore[attr-defined]
