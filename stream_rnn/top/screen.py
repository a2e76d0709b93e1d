"""The application: panels by size, keys, and a look at what the poller brought."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Grid
from textual.widget import Widget
from textual.widgets import Footer
from typing_extensions import override

from stream_rnn.top import head, panels
from stream_rnn.top.help import Help
from stream_rnn.top.history import History
from stream_rnn.top.ink import GROUND, INK, MUTED, fit
from stream_rnn.top.layout import HEAD, Layout, layout
from stream_rnn.top.menu import Menu
from stream_rnn.top.panels import Draw
from stream_rnn.top.place import Place
from stream_rnn.top.poller import Look, Poller

LOOK_EVERY_S = 0.25
PLOTS, FACTS = ("loss", "rate", "lag", "tick"), ("learning", "keeping", "events")
MOST_TROUBLE = 3  # lines


class Panel(Widget):
    """Lines drawn by a function of the size; drawn again only if they change."""

    def __init__(self, name: str) -> None:
        super().__init__(id=name)
        self.boxed = False
        self._draw: Draw | None = None
        self._shown: list[Text] = []
        self._is_old = False

    def show(self, draw: Draw, boxed: bool = False, is_old: bool = False) -> None:
        """From now on `draw`; `is_old`: in muted ink."""
        self._draw, self.boxed, self._is_old = draw, boxed, is_old
        if self._lines() != self._shown:
            self.refresh()

    @override
    def render(self) -> Text:
        self._shown = self._lines()
        return Text("\n").join(self._shown)

    def _lines(self) -> list[Text]:
        width, height = self.size
        if self._draw is None or width < 8 or height < 1:
            return []
        lines = self._draw(width, height, self.boxed)
        return [Text(line.plain, MUTED) for line in lines] if self._is_old else lines


class Top(App[None]):
    """The screen of `stream-rnn top`.

    Args:
        place: the daemon, for the line that says where.
        poller: asks it; started and stopped with the screen.
        state: its state folder, if that is on this machine: it can be told things.
        clock: seconds, monotonic.
        slot_s: seconds between two points of the plots.
        look_every_s: how often the screen sees whether the poller has something new.
    """

    TITLE = "stream-rnn top"
    ENABLE_COMMAND_PALETTE = False
    CSS = f"""
    Screen {{ background: {GROUND}; color: {INK}; layout: vertical; overflow: hidden; }}
    Panel {{ width: 1fr; height: 1fr; }}
    Grid {{ grid-size: 2; grid-gutter: 0 2; }}
    Grid.-boxed {{ grid-gutter: 0 1; }}
    Footer {{ background: {GROUND}; color: {MUTED}; }}
    Footer FooterKey {{ background: {GROUND}; color: {MUTED}; }}
    Footer FooterKey .footer-key--key {{ background: {GROUND}; color: {INK}; text-style: bold; }}
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q,ctrl+c,ctrl+q", "quit", "quit", key_display="q", priority=True),
        Binding("p", "pause", "pause"),
        Binding("r", "rescale", "reset scales"),
        Binding("c", "control", "control"),
        Binding("h,question_mark", "help", "help", key_display="h"),
    ]

    def __init__(
        self,
        place: Place,
        poller: Poller,
        state: Path | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        slot_s: float = 1.0,
        look_every_s: float = LOOK_EVERY_S,
    ) -> None:
        super().__init__()
        self._place = place
        self._poller = poller
        self._state = state
        self._clock = clock
        self._begun = clock()
        self._look_every_s = look_every_s
        self._history = History(slot_s)
        self._look: Look | None = None
        self._last: Look | None = None  # with an answer
        names = ("head", "trouble", *PLOTS, *FACTS, "letters")
        self._panels = {name: Panel(name) for name in names}
        self._plots = Grid(*(self._panels[name] for name in PLOTS))
        self._facts = Grid(*(self._panels[name] for name in FACTS))
        self._drawings: dict[str, Draw] = {}
        self._plan: Layout | None = None
        self._paused = False

    @override
    def compose(self) -> ComposeResult:
        yield self._panels["head"]
        yield self._panels["trouble"]
        yield self._plots
        yield self._facts
        yield self._panels["letters"]
        yield Footer(show_command_palette=False)

    def on_mount(self) -> None:
        """Begin to ask."""
        self._poller.start()
        self.set_interval(self._look_every_s, self._take)
        self._draw_anew()
        self._show()

    def on_unmount(self) -> None:
        """Ask no more."""
        self._poller.stop()

    def on_resize(self) -> None:
        """The terminal has another size."""
        self._show()

    def action_pause(self) -> None:
        """Hold the display, or let it go on."""
        self._paused = not self._paused
        if not self._paused:
            self._draw_anew()
        self._show()

    def action_rescale(self) -> None:
        """Let the scales follow what comes from now on."""
        self._history.rescale()
        self._draw_anew()
        self._show()

    def action_help(self) -> None:
        """Say what is what."""
        self.push_screen(Help())

    def action_control(self) -> None:
        """Tell the daemon something."""
        if self._state is not None:
            self.push_screen(Menu(self._state))

    @override
    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Offer the menu only where there is somebody to be told."""
        return action != "control" or self._state is not None

    def _take(self) -> None:
        look = self._poller.newest
        if look is not None and (self._look is None or look.number != self._look.number):
            self._look = look
            if look.answer is not None:
                self._last = look
                self._history.add(look.answer, look.at)
                if not self._paused:
                    self._draw_anew()
        self._show()

    def _draw_anew(self) -> None:
        """What the panels show, as of now; a paused display keeps what it has."""
        look = self._last
        answer = None if look is None else look.answer
        letters = None if look is None else look.letters
        self._drawings = panels.all_of(answer, self._history, letters, time.time())

    def _show(self) -> None:
        heard = head.heard(self._look, self._last, self._begun, self._clock(), self._paused)
        trouble = heard.trouble[:MOST_TROUBLE]
        plan = layout(*self.size, len(trouble))
        if plan != self._plan:
            self._plan = plan
            self._arrange(plan, len(trouble))
        url = self._place.url
        self._panels["head"].show(lambda width, *_: head.lines(heard, url, width))
        self._panels["trouble"].show(lambda width, *_: [fit(each, width) for each in trouble])
        for name, draw in self._drawings.items():
            self._panels[name].show(draw, plan.boxed, heard.is_stale)

    def _arrange(self, plan: Layout, n_trouble: int) -> None:
        is_wide = plan.fact_columns == 3
        n_facts = 2 if plan.fact_columns == 1 else 1  # below one another
        rows = [plan.facts] * n_facts + ([] if is_wide else [plan.events])
        heights: list[tuple[Widget, int]] = [
            (self._panels["head"], HEAD),
            (self._panels["trouble"], n_trouble),
            (self._plots, 2 * plan.plot),
            (self._facts, sum(rows)),
            (self._panels["letters"], plan.letters),
        ]
        for widget, height in heights:
            widget.styles.height = height
            widget.styles.display = "block" if height else "none"
        self._plots.styles.grid_rows = str(max(plan.plot, 1))
        self._facts.styles.grid_rows = " ".join(str(max(row, 1)) for row in rows)
        self._facts.styles.grid_size_columns = plan.fact_columns
        events = self._panels["events"]
        events.styles.column_span = 1 if is_wide else plan.fact_columns
        events.styles.display = "block" if is_wide or plan.events else "none"
        for grid in (self._plots, self._facts):
            grid.set_class(plan.boxed, "-boxed")
