"""Each case within a time and a memory; what is not foreseen is kept with its seed."""

from __future__ import annotations

import resource
import signal
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

SECONDS = 10.0
"""Of the processor's time, that a case may take ..."""
PATIENCE = 30.0
"""... and of the clock's, as a multiple: a busy machine is slow, and waiting is a hang, too."""


class TooLong(BaseException):
    """Raised out of a case that does not come to an end."""


@dataclass
class Tally:
    """What became of the cases.

    Attributes:
        name: of the target.
        out: where inputs that failed are written.
        outcomes: how many came to which end.
        failures: one line for each that came to a bad one.
    """

    name: str
    out: Path
    outcomes: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)

    def case(
        self,
        seed: int,
        data: bytes,
        run: Callable[[], str],
        foreseen: tuple[type[Exception], ...],
        seconds: float = SECONDS,
    ) -> None:
        """Run one case: it must return what became of it, or raise something foreseen."""
        try:
            with alarm(seconds):
                outcome = run()
        except foreseen as error:
            outcome = type(error).__name__
        except (Exception, TooLong) as error:
            outcome = f"BAD {type(error).__name__}"
            place = traceback.extract_tb(error.__traceback__)[-1]
            kept = self.out / f"{self.name}-{seed}.bin"
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.write_bytes(data)
            kept.with_suffix(".txt").write_text(traceback.format_exc())
            where = f"{Path(place.filename).name}:{place.lineno}"
            self.failures.append(f"seed {seed}: {type(error).__name__}: {str(error)[:150]} {where}")
        self.outcomes[outcome] += 1

    def lines(self) -> list[str]:
        """For people."""
        total = sum(self.outcomes.values())
        told = ", ".join(f"{name} {n}" for name, n in sorted(self.outcomes.items()))
        return [
            f"{self.name}: {total} cases: {told}",
            *(f"  {line}" for line in self.failures[:40]),
        ]


@contextmanager
def alarm(seconds: float) -> Iterator[None]:
    """Raise TooLong after so much of the processor's time; on the main thread only."""

    def ring(number: int, frame: FrameType | None) -> None:
        raise TooLong(f"not done after {seconds:g} s of the processor's time, or waiting for long")

    timers = {
        signal.ITIMER_PROF: (signal.SIGPROF, seconds),
        signal.ITIMER_REAL: (signal.SIGALRM, PATIENCE * seconds),
    }
    before = {name: signal.signal(name, ring) for name, _ in timers.values()}
    for timer, (_, limit) in timers.items():
        signal.setitimer(timer, limit)
    try:
        yield
    finally:
        for timer in timers:
            signal.setitimer(timer, 0)
        for name, handler in before.items():
            signal.signal(name, handler)


def limit_memory(n_bytes: int) -> None:
    """Beyond it an allocation fails (MemoryError) instead of taking the machine."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + n_bytes, resource.RLIM_INFINITY))
