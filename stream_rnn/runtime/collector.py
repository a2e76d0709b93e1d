"""Python's garbage collector, told what need not be looked at."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

YOUNG = 20_000  # objects more than were let go of, before it looks at all: several polls' worth


@contextmanager
def settled() -> Iterator[None]:
    """What is there now stays: libraries, model, settings; what an event makes goes by itself.

    By default the collector looks at 700 new objects, a fourth of a poll, and every so often at all
    there are, a few hundred thousand of which are torch's: together half of an event's time.
    """
    before = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(YOUNG, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()


@contextmanager
def uncollected() -> Iterator[None]:
    """The state of thousands of lanes is taken out or put back: many objects, and none is garbage.

    The collector would go through all of them, again and again: half of the time that takes.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
