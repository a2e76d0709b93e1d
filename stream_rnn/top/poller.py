"""Asks once a second on a thread of its own, so that nothing that answers can hold the screen."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from pathlib import Path

from stream_rnn.top import letters
from stream_rnn.top.answer import Answer, look
from stream_rnn.top.asking import NoAnswer
from stream_rnn.top.letters import Letter
from stream_rnn.top.place import Place

EVERY_S = 1.0


@dataclass(frozen=True, slots=True)
class Look:
    """What came of asking once.

    Attributes:
        number: of this look, from 1.
        at: when it ended, in seconds, monotonic.
        answer: what was said; None: nothing, and `problem` says why.
        problem: "" if there is an answer.
        letters: dead letters; None: nobody tells them.
    """

    number: int
    at: float
    answer: Answer | None
    problem: str = ""
    letters: tuple[Letter, ...] | None = None


class Poller:
    """Looks at a daemon until it is stopped.

    Args:
        place: whom to ask.
        letters_path: the file of dead letters on this machine, read where the daemon tells none.
        every_s: between the beginnings of two looks; one that takes longer delays the next.

    Attributes:
        newest: replaced whole by the poller's thread; None before the first look has ended.
    """

    def __init__(
        self, place: Place, letters_path: Path | None = None, every_s: float = EVERY_S
    ) -> None:
        self.newest: Look | None = None
        self._place = place
        self._letters_path = letters_path
        self._every_s = every_s
        self._stopped = threading.Event()
        # a daemon thread: looking up a name cannot be interrupted, and leaving must not wait for it
        self._thread = threading.Thread(target=self._run, name="top", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """No further look begins; does not wait for the one under way."""
        self._stopped.set()

    def _run(self) -> None:
        due, number = time.monotonic(), 0
        while not self._stopped.is_set():
            number += 1
            self.newest = self._look(number)
            due = max(due + self._every_s, time.monotonic())
            self._stopped.wait(due - time.monotonic())

    def _look(self, number: int) -> Look:
        answer, problem = None, ""
        try:
            answer = look(self._place)
        except NoAnswer as error:
            problem = str(error)
        except Exception as error:  # a mistake of ours must not end the asking, and is shown
            problem = f"top failed, please report it: {type(error).__name__}: {error}"
        found = None if answer is None else answer.letters
        if not found and self._letters_path is not None:
            try:
                found = letters.written(self._letters_path)
            except OSError as error:
                found = (Letter("", "", f"{error.strerror}: {self._letters_path}"),)
        return Look(number, time.monotonic(), answer, problem, found)
