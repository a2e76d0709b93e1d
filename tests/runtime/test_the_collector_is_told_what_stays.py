"""While a daemon learns, the collector leaves alone what was there; afterwards all is as before."""

from __future__ import annotations

import gc
import weakref

import pytest

from stream_rnn.runtime.collector import YOUNG, settled, uncollected


class Node:
    """One of a cycle, which only the collector lets go of."""

    def __init__(self) -> None:
        self.own = self


def test_meanwhile_what_was_there_is_not_looked_at_and_afterwards_again() -> None:
    before, frozen = gc.get_threshold(), gc.get_freeze_count()
    with settled():
        assert gc.get_freeze_count() > frozen + 10_000
        assert gc.get_threshold() == (YOUNG, *before[1:])
    assert gc.get_threshold() == before
    assert gc.get_freeze_count() == 0


def test_an_error_leaves_it_as_it_was() -> None:
    before = gc.get_threshold()
    with pytest.raises(ZeroDivisionError), settled():
        raise ZeroDivisionError
    assert gc.get_threshold() == before
    assert gc.get_freeze_count() == 0


def test_cycles_that_are_made_meanwhile_are_let_go_of() -> None:
    with settled():
        first = weakref.ref(Node())
        kept = [[] for _ in range(2 * YOUNG)]
        assert first() is None
    assert len(kept) == 2 * YOUNG


def test_while_a_state_is_taken_out_nothing_is_looked_at_and_an_error_changes_nothing() -> None:
    with uncollected():
        assert not gc.isenabled()
    assert gc.isenabled()
    with pytest.raises(ZeroDivisionError), uncollected():
        raise ZeroDivisionError
    assert gc.isenabled()


def test_who_has_turned_the_collector_off_finds_it_off() -> None:
    gc.disable()
    try:
        with uncollected():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
