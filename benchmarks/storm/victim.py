"""One daemon, and its producer if it has one, killed again and again after a schedule."""

from __future__ import annotations

import random
import signal
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.storm.daemons import Daemon
from benchmarks.storm.place import Place

HUNG_S = 60.0
IDLE_S = 15.0  # without progress a life is counted all the same
ALLOWED = {0, -signal.SIGTERM, -signal.SIGKILL}  # SIGTERM before Python listens is a plain death


@dataclass
class Schedule:
    """Seconds to live, drawn anew for each life.

    Attributes:
        term_s: the shortest and longest life that ends with SIGTERM: the first half of the storm.
        kill_s: those that end with SIGKILL: the second half. The producer's, too, all along.
    """

    term_s: tuple[float, float] = (1.0, 30.0)
    kill_s: tuple[float, float] = (0.1, 10.0)

    @classmethod
    def lasting(cls, seconds: float) -> Schedule:
        """Scaled to a storm of that length; a storm of half an hour is not scaled."""
        scale = min(1.0, seconds / 1800)
        return cls((1.0 * scale, 30.0 * scale), (0.1 * scale, 10.0 * scale))


@dataclass(eq=False)
class Victim:
    """Stepped by one thread; see `step`.

    Attributes:
        kills: of the daemon, by signal.
        producer_kills: SIGKILL, each.
        sizes: memory in MB and open files at the end of each life of the daemon.
        wrong: what must not happen: an exit code, a hang.
    """

    place: Place
    schedule: Schedule
    chance: random.Random
    kills: dict[int, int] = field(default_factory=dict)
    producer_kills: int = 0
    sizes: list[tuple[float, int]] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    daemon: Daemon | None = None
    producer: subprocess.Popen[bytes] | None = None
    _due: float = 0.0
    _counts_from_progress: bool = False
    _seen: int = 0
    _began: float = 0.0
    _dying_since: float | None = None
    _producer_due: float | None = None  # None: it has brought nothing yet
    _producer_began: float = 0.0
    _producer_seen: int = 0

    @property
    def has_producer(self) -> bool:
        """Whether events come from another process."""
        return self.place.kind != "jsonl"

    def step(self, now: float, number: int) -> None:
        """Do what is due; `number`: the signal of this part of the storm."""
        if self.has_producer:
            self._step_producer(now)
        if self.daemon is None:
            self._begin(now, number)
        elif self._dying_since is not None:
            self._bury(now)
        elif self._counts_from_progress:
            if self._written() > self._seen or now - self._began > IDLE_S:
                self._counts_from_progress = False  # from here on, not while it is loading
                self._due += now
            elif self.daemon.poll() is not None:
                self._bury(now)
        elif now >= self._due or self.daemon.poll() is not None:
            self.sizes.append(self.daemon.size())
            self.daemon.signal(number)
            self.kills[number] = self.kills.get(number, 0) + 1
            self._dying_since = now

    def _begin(self, now: float, number: int) -> None:
        self.daemon = self.place.daemon()
        span = self.schedule.term_s if number == signal.SIGTERM else self.schedule.kill_s
        self._due, self._dying_since = self.chance.uniform(*span), None
        self._seen, self._began = self._written(), now
        self._counts_from_progress = self.chance.random() < 0.7
        if not self._counts_from_progress:
            self._due += now

    def _bury(self, now: float) -> None:
        assert self.daemon is not None
        code = self.daemon.poll()
        if code is None:
            if self._dying_since is not None and now - self._dying_since > HUNG_S:
                self.wrong.append(f"hung for {HUNG_S:.0f} s after SIGTERM")
                self.daemon.kill()
            return
        if code not in ALLOWED:
            self.wrong.append(f"exit code {code}: {self.place.log()[-1500:]}")
        self.daemon = None

    def _step_producer(self, now: float) -> None:
        if self.producer is None or self.producer.poll() is not None:
            if self.producer is not None and self.producer.returncode not in (0, -signal.SIGKILL):
                self.wrong.append(f"producer: exit code {self.producer.returncode}")
            self.producer = self.place.producer()
            self._producer_began, self._producer_due = now, None
            self._producer_seen = self._written()
        elif self._producer_due is None:
            is_idle = now - self._producer_began > IDLE_S
            if is_idle or self._written() > self._producer_seen:
                self._producer_due = now + self.chance.uniform(*self.schedule.kill_s)
        elif now >= self._producer_due:
            self.producer.kill()
            self.producer.wait()
            self.producer_kills += 1

    def _written(self) -> int:
        path: Path = self.place.folder / "predictions.jsonl"
        return path.stat().st_size if path.exists() else 0

    def survivor(self) -> Daemon:
        """The daemon that is let live, once the storm is over."""
        if self.daemon is not None and self._dying_since is not None:
            self.daemon.wait(HUNG_S)
            self.daemon = None
        if self.daemon is None:
            self.daemon = self.place.daemon()
        if self.has_producer and (self.producer is None or self.producer.poll() is not None):
            self.producer = self.place.producer()
        return self.daemon
