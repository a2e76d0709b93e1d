"""Python's garbage collector, told what need not be looked at."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def settled() -> Iterator[None]:
    """What is there now stays: libraries, model, settings.

    Every event makes objects, and after some thousands of them the collector looks through all
    there are, a few hundred thousand of which are torch's. That was a third of an event's time.
    """
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
