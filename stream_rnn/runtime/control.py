"""What a person tells a running daemon, done by the loop's thread between two ticks.

Requests come from any thread (`ask`) or from a signal's handler (`wants_*`), which only take note.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from datetime import UTC, datetime
from typing import Any

from stream_rnn.config import ConfigError
from stream_rnn.engine.engine import Engine
from stream_rnn.runtime.awaited import Answer, Awaited, done, failed, wrong
from stream_rnn.runtime.breaker import BY as BREAKER
from stream_rnn.runtime.breaker import Breaker
from stream_rnn.runtime.checkpointing import Checkpointing
from stream_rnn.runtime.holds import Freeze, Pause
from stream_rnn.spi import worded

_log = logging.getLogger(__name__)

MOST_WAITING = 16  # requests at once
BY = "ctl"


class Control:
    """The verbs of `stream-rnn ctl`, and what signals ask for.

    Args:
        engine, checkpointing, pause, freeze, breaker: what the verbs act on.
        status: what `status` answers; called on the asking thread, so that it answers even while
            the loop hangs.
        snapshot: takes a snapshot, if one can be taken now.
    """

    def __init__(
        self,
        engine: Engine,
        checkpointing: Checkpointing,
        pause: Pause,
        freeze: Freeze,
        breaker: Breaker,
        *,
        status: Callable[[], dict[str, Any]],
        snapshot: Callable[[], None],
    ) -> None:
        self.waiting = False  # something is to be done: the one thing the loop looks at
        self.draining = False
        # set by the composition: change one setting; read the configuration again
        self.tune: Callable[[str], str] | None = None
        self.reload: Callable[[], None] | None = None
        self._engine = engine
        self._checkpointing = checkpointing
        self._pause = pause
        self._freeze = freeze
        self._breaker = breaker
        self._status = status
        self._awaited = Awaited(engine, checkpointing, snapshot)
        self._wants_reload = self._wants_snapshot = False
        self._inbox: deque[tuple[str, str, Future[Answer]]] = deque()
        self._drains: list[Future[Answer]] = []
        self._over = ""  # why nothing is done any more
        self._verbs: dict[str, Callable[[str, Future[Answer]], None]] = {
            "checkpoint": self._do_checkpoint,
            "pause": self._do_pause,
            "resume": self._do_resume,
            "freeze": self._do_freeze,
            "unfreeze": self._do_unfreeze,
            "drain": self._do_drain,
            "set": self._do_set,
        }

    # Any thread, and signal handlers ----------------------------------------------------------

    def ask(self, verb: str, argument: str = "") -> Future[Answer]:
        """Ask for something; the future gets the answer once it is done, or refused."""
        answer: Future[Answer] = Future()
        if verb == "status":
            answer.set_result({"ok": True, "text": "", "status": self._status()})
        elif verb not in self._verbs:
            known = ", ".join(["status", *self._verbs])
            answer.set_result(wrong(f"unknown verb {verb[:40]!r} (known: {known})"))
        elif self._over:
            answer.set_result(failed(self._over))
        elif len(self._inbox) + len(self._awaited) + len(self._drains) >= MOST_WAITING:
            answer.set_result(failed(f"{MOST_WAITING} requests wait already; try again"))
        else:
            self._inbox.append((verb, argument, answer))
            self.waiting = True
        return answer

    def wants_snapshot(self) -> None:
        """SIGUSR1."""
        self._wants_snapshot = self.waiting = True

    def wants_reload(self) -> None:
        """SIGHUP."""
        self._wants_reload = self.waiting = True

    # The loop's thread ------------------------------------------------------------------------

    def turn(self, *, snapshots: bool = True) -> None:
        """Do what was asked for. `snapshots`: whether one may be taken now."""
        self.waiting = False  # first: what is asked for meanwhile sets it again
        if self._wants_snapshot:
            self._wants_snapshot = False
            self._awaited.add("snapshot by signal", None)
        if self._wants_reload:
            self._wants_reload = False
            self._read_again()
        while self._inbox:
            verb, argument, answer = self._inbox.popleft()
            if not answer.set_running_or_notify_cancel():
                continue
            try:
                self._verbs[verb](argument, answer)
            except ConfigError as error:
                answer.set_result(wrong(str(error)))
            except Exception as error:  # a slip here must not end what has learned for a year
                _log.exception("ctl %s failed", verb)
                answer.set_result(failed(f"{type(error).__name__}: {error}"))
        self._awaited.settle(snapshots)
        self.waiting = self.waiting or bool(len(self._awaited))

    def finished(self) -> None:
        """Everything is durable: the run ends as it should."""
        self._awaited.settle(False)
        where = self._awaited.newest()
        for answer in self._drains:
            n = self._engine.counts.applied
            text = f"drained: {n} {worded(n, 'event')} learned by this process; {where}"
            answer.set_result(done(text, **self._awaited.facts()))
        self._drains.clear()

    def abandon(self) -> None:
        """The run is over; whoever still waits is told that it was not done."""
        self._over = "the daemon is leaving"
        text = "the daemon ended before this was done; see its log"
        left = [answer for _, _, answer in self._inbox] + self._drains
        self._awaited.settle(
            False
        )  # what has become of the last snapshot is known, if it was taken
        left += self._awaited.abandon()
        self._inbox.clear()
        self._drains.clear()
        for answer in left:
            if not answer.done():
                answer.set_result(failed(text))

    # Verbs ------------------------------------------------------------------------------------

    def _do_checkpoint(self, argument: str, answer: Future[Answer]) -> None:
        _no_argument("checkpoint", argument)
        self._awaited.add("snapshot taken", answer)

    def _do_pause(self, argument: str, answer: Future[Answer]) -> None:
        _no_argument("pause", argument)
        held = self._pause.reasons.get(BY)
        if held is None:
            held = f"paused by ctl since {datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
            self._pause.hold(BY, held)
            _log.warning("%s, at step %d", held, self._engine.step)
        text = f"{held}; what was received is still learned, the source stays open, snapshots go on"
        answer.set_result(done(text, **self._awaited.facts()))

    def _do_resume(self, argument: str, answer: Future[Answer]) -> None:
        _no_argument("resume", argument)
        held = list(self._pause.reasons)
        self._pause.release(*held)
        self._breaker.reset()
        if held:
            _log.warning("resumed by ctl at step %d (%s)", self._engine.step, ", ".join(held))
        text = f"resumed ({', '.join(held)} held)" if held else "nothing held it back"
        answer.set_result(done(text, **self._awaited.facts()))

    def _do_freeze(self, argument: str, answer: Future[Answer]) -> None:
        _no_argument("freeze", argument)
        if self._freeze.since_step is None:
            self._freeze.on()
            self._checkpointing.touch()
            _log.warning("frozen by ctl at step %d: nothing is learned", self._engine.step)
        text = f"frozen since step {self._freeze.since_step}: predictions go on, nothing is learned"
        self._awaited.add(text, answer)

    def _do_unfreeze(self, argument: str, answer: Future[Answer]) -> None:
        _no_argument("unfreeze", argument)
        text = "it was not frozen"
        if self._freeze.since_step is not None:
            self._freeze.off()
            self._checkpointing.touch()
            text = f"unfrozen at step {self._engine.step}"
            _log.warning("unfrozen by ctl at step %d", self._engine.step)
        self._awaited.add(f"{text}; teaches {self._engine.learner.teaches}", answer)

    def _do_drain(self, argument: str, answer: Future[Answer]) -> None:
        _no_argument("drain", argument)
        if not self.draining:
            _log.warning("draining by ctl at step %d", self._engine.step)
        self.draining = True
        self._drains.append(answer)

    def _do_set(self, argument: str, answer: Future[Answer]) -> None:
        if self.tune is None:
            raise ConfigError("set: this run has no settings that can be changed")
        text = self.tune(argument)
        answer.set_result(done(f"{text}; until the next start or reload, for it is in no file"))

    def _read_again(self) -> None:
        if self.reload is None:
            _log.warning("asked to read the configuration again, but there is no file to read")
        else:
            self.reload()
        if BREAKER in self._pause.reasons:
            _log.warning("the breaker is closed: somebody has looked at the configuration")
        self._pause.release(BREAKER)  # what a person holds, a person releases
        self._breaker.reset()


def _no_argument(verb: str, argument: str) -> None:
    if argument:
        raise ConfigError(f"{verb} takes no argument, got {argument[:40]!r}")
