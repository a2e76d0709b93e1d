"""The one thing that is not only looking: a snapshot, a pause, going on, after a question."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar, NamedTuple

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.events import Key
from textual.screen import ModalScreen
from textual.widgets import Static
from typing_extensions import override

from stream_rnn.control.client import NoAnswer, ask
from stream_rnn.top.ink import BAD, GOOD, GROUND, INK, LINE, MUTED
from stream_rnn.top.words import clean

LOOK_EVERY_S = 0.1


class Order(NamedTuple):
    """What can be told: the verb of `stream-rnn ctl`, what it does, seconds it may take."""

    verb: str
    does: str
    patience_s: float


ORDERS = {
    "s": Order("checkpoint", "take a snapshot now", 60.0),
    "p": Order("pause", "stop polling; snapshots go on", 5.0),
    "r": Order("resume", "poll again", 5.0),
}


class Outcome(NamedTuple):
    """What became of an order."""

    done: bool
    text: str


def tell(state: Path, order: Order) -> Outcome:
    """Tell the daemon of a state folder, and wait for what it says. Not for the screen's thread."""
    try:
        answer = ask(state, order.verb, "", order.patience_s)
    except NoAnswer as error:
        return Outcome(False, clean(str(error)))
    return Outcome(answer.get("ok") is True, clean(answer.get("text")))


class Menu(ModalScreen[None]):
    """Choose, confirm with y, see what became of it; any other key goes back.

    Args:
        state: whose daemon is told.
        tell: tells it; called on a thread of its own.
    """

    CSS = f"""
    Menu {{ align: center middle; background: {GROUND} 60%; }}
    Menu Static {{
        width: 64; max-width: 100%; height: auto; padding: 0 1;
        background: {GROUND}; color: {INK}; border: round {LINE};
    }}
    """
    # what the screen below would do with these keys is not meant here
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,c", "dismiss", "close", priority=True),
    ]

    def __init__(self, state: Path, tell: Callable[[Path, Order], Outcome] = tell) -> None:
        super().__init__()
        self._state = state
        self._tell = tell
        self._chosen: Order | None = None
        self._is_told = False
        self._outcome: Outcome | None = None
        self._shown = Static()

    @override
    def compose(self) -> ComposeResult:
        yield self._shown

    def on_mount(self) -> None:
        """Offer the choice."""
        self.set_interval(LOOK_EVERY_S, self._show)
        self._show()

    def on_key(self, event: Key) -> None:
        """Choose or confirm; none of the keys reaches the screen below."""
        event.stop()
        if self._outcome is not None:
            self._chosen, self._is_told, self._outcome = None, False, None
        elif self._chosen is None:
            self._chosen = ORDERS.get(event.key)
        elif not self._is_told:
            if event.key == "y":
                self._is_told = True
                # its answer may take a minute; leaving does not wait for it
                threading.Thread(target=self._ask, args=(self._chosen,), daemon=True).start()
            else:
                self._chosen = None
        self._show()

    def _ask(self, order: Order) -> None:
        self._outcome = self._tell(self._state, order)

    def _show(self) -> None:
        self._shown.update(self._text())

    def _text(self) -> Text:
        whose = (f"The daemon of {clean(str(self._state), 200)}\n\n", MUTED)
        if self._chosen is None:
            lines = [f"{key}  {order.verb:<11} {order.does}\n" for key, order in ORDERS.items()]
            return Text.assemble(whose, *lines, ("\nescape closes this", MUTED))
        verb = (self._chosen.verb, "bold")
        if self._outcome is not None:
            word = ("● done", GOOD) if self._outcome.done else ("✕ not done", BAD)
            return Text.assemble(whose, verb, "  ", word, f"\n{self._outcome.text}")
        if self._is_told:
            return Text.assemble(whose, verb, ("  …", MUTED))
        question = f"  ({self._chosen.does})?\n\ny  yes\nn  no"
        return Text.assemble(whose, verb, question)
