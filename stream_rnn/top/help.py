"""What the keys do and what the panels say, over the screen."""

from __future__ import annotations

from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Static
from typing_extensions import override

from stream_rnn.top.ink import GROUND, INK, LINE

TEXT = """\
q          leave; the daemon does not notice
p          hold the display, or let it go on
r          scales follow what comes from now on
c          tell the daemon: snapshot, pause, resume
           (needs CONFIG or --state)
h          close this

Loss       before learning, beside the best baseline:
           below it is good
Tick       half of the ticks took less than p50, all but
           1 % less than p99 (of the last 10 s)
Lag        what waits at the source
Learning   the rule in use, its rung on the ladder, and
           what kept updates away
Keeping    what a crash costs, and the newest snapshot
Events     since the daemon's start

One character is 2 s. Boxes or ? instead of lines: use a
UTF-8 locale, and tmux -u.
"""


class Help(ModalScreen[None]):
    """Closed by the same key."""

    CSS = f"""
    Help {{ align: center middle; background: {GROUND} 60%; }}
    Help VerticalScroll {{
        width: 60; max-width: 100%; height: auto; max-height: 100%; padding: 0 1;
        background: {GROUND}; color: {INK}; border: round {LINE};
    }}
    Help Static {{ height: auto; }}
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("h,escape,question_mark,enter,space", "dismiss", "close")
    ]

    @override
    def compose(self) -> ComposeResult:
        with VerticalScroll():
            yield Static(Text(TEXT.rstrip()))
