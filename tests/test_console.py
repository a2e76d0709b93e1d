import io
import logging
import re

import pytest

from stream_rnn.console import Console, NoteHandler, Progress, compared, duration, human, line


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def progress(events: int = 12_345, **changes: object) -> Progress:
    values = {
        "events": events,
        "events_per_s": 842.0,
        "loss": 0.0312,
        "baseline_loss": 0.0508,
        "baseline": "persistence",
        "rule": "Rtrl",
        "lag": 0.0,
        "snapshot_age_s": 4.0,
    }
    return Progress(**(values | changes))  # type: ignore[arg-type]


def on_screen(written: str) -> list[str]:
    """What a terminal shows: a carriage return with an erase starts the line anew."""
    return [row.split("\r\x1b[K")[-1] for row in written.split("\n")]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def stream() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def live(stream, clock) -> Console:
    return Console(stream, interactive=True, clock=clock, columns=lambda: 80)


@pytest.fixture
def plain(stream, clock) -> Console:
    return Console(stream, interactive=False, clock=clock)


def test_a_pause_is_said_and_is_the_last_to_fall_away():
    paused = progress(paused="breaker, ctl")
    assert line(paused).startswith("12.3k events  paused: breaker, ctl  842/s")
    assert line(paused, 36) == "12.3k events  paused: breaker, ctl"
    assert line(paused, 20) == "12.3k events"


def test_a_plain_line_says_everything():
    assert line(progress()) == (
        "12.3k events  842/s  loss 0.0312, 39% below persistence  Rtrl  lag 0  saved 4 s ago"
    )


def test_a_figure_that_is_no_loss_goes_by_its_name():
    assert "  NRMSE 0.0312, 39% below persistence  " in line(progress(figure="NRMSE"))


def test_unknown_values_print_as_a_dash_and_not_as_zero():
    text = line(progress(loss=None, baseline_loss=None, lag=None, rule="", snapshot_age_s=None))
    assert text == "12.3k events  842/s  loss -  -  lag -  saved -"


@pytest.mark.parametrize("columns", range(1, 100))
def test_a_line_is_never_wider_than_asked_and_never_cuts_a_field(columns):
    text = line(progress(lag=1234.0), columns)
    assert len(text) <= columns
    whole = line(progress(lag=1234.0)).split("  ")
    assert set(text.split("  ")) <= {"", *whole, "saved 4 s"}


def test_eighty_columns_hold_loss_lag_and_snapshot_age():
    text = line(progress(events=1_234_567), 79)
    assert "39% below persistence" in text
    assert "lag 0" in text
    assert "saved 4 s" in text


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (None, "-"),
        (float("nan"), "-"),
        (0, "0"),
        (0.0, "0"),
        (842, "842"),
        (999.6, "1k"),
        (12_345, "12.3k"),
        (999_950, "1M"),
        (1_234_567, "1.23M"),
        (5e9, "5G"),
        (-0.03121, "-0.0312"),
        (-12_345, "-12.3k"),
        (0.0000312, "3.12e-05"),
        (4.2e17, "4.20e+17"),
        (float("inf"), "inf"),
    ],
)
def test_numbers_are_shown_with_three_digits(number, text):
    assert human(number) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-1, "0 s"), (4.9, "4 s"), (61, "1 min"), (7_200, "2 h"), (6 * 86_400, "6 d")],
)
def test_durations_have_one_unit(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("loss", "baseline_loss", "text"),
    [
        (0.5, 1.0, "loss 0.5, 50% below persistence"),
        (1.5, 1.0, "loss 1.5, 50% above persistence"),
        (8.3, 1.0, "loss 8.3, 8.3x persistence"),
        (1.001, 1.0, "loss 1, like persistence"),
        (-0.5, 1.0, "loss -0.5, persistence 1"),
        (0.5, 0.0, "loss 0.5, persistence 0"),
        (float("inf"), 1.0, "loss inf, persistence 1"),
        (0.5, None, "loss 0.5"),
        (float("nan"), 1.0, "loss -"),
    ],
)
def test_the_loss_is_compared_only_where_a_ratio_means_something(loss, baseline_loss, text):
    assert compared(loss, baseline_loss, "persistence") == text


def test_the_live_line_is_rewritten_in_place(live, stream, clock):
    live.show(progress(1))
    clock.now = 0.2
    live.show(progress(2))
    assert "\n" not in stream.getvalue()
    assert on_screen(stream.getvalue())[0].startswith("2 events")


def test_the_live_line_changes_five_times_per_second_at_most(live, stream, clock):
    for i in range(1000):
        clock.now = i / 1000
        live.show(progress(i))
    assert stream.getvalue().count("\r") == 5


def test_due_tells_when_a_line_would_be_drawn(live, clock):
    live.show(progress())
    clock.now = 0.1
    assert not live.due()
    clock.now = 0.2
    assert live.due()


def test_a_note_stands_above_the_live_line(live, stream):
    live.show(progress())
    live.note("connected")
    above, below = on_screen(stream.getvalue())
    assert above == "connected"
    assert below.startswith("12.3k events")


def test_escape_sequences_of_a_stream_never_reach_the_terminal(live, stream):
    live.note("bad \x1b]0;title\x07 event")
    live.show(progress(paused="\x1b[2J", rule="a\nb", baseline="\x9bp"))
    assert not re.search(r"[\x00-\x09\x0b\x0c\x0e-\x1a\x1c-\x1f\x7f-\x9f]", stream.getvalue())
    assert stream.getvalue().replace("\r\x1b[K", "").count("\x1b") == 0


def test_log_records_stand_above_the_live_line(live, stream):
    live.show(progress())
    handler = NoteHandler(live)
    handler.emit(logging.LogRecord("x", logging.INFO, "x.py", 1, "saved %d", (7,), None))
    assert on_screen(stream.getvalue())[0] == "saved 7"


def test_without_a_terminal_a_line_comes_every_ten_seconds(plain, stream, clock):
    for second in range(25):
        clock.now = float(second)
        plain.show(progress(second))
    assert [row.split()[0] for row in stream.getvalue().splitlines()] == ["0", "10", "20"]


def test_without_a_terminal_nothing_but_text_is_written(plain, stream):
    plain.note("hello")
    plain.show(progress())
    plain.done()
    assert "\r" not in stream.getvalue()
    assert "\x1b" not in stream.getvalue()


@pytest.mark.parametrize("interactive", [True, False], ids=["terminal", "file"])
def test_done_leaves_the_newest_progress_and_a_new_line(stream, clock, interactive):
    console = Console(stream, interactive=interactive, clock=clock, columns=lambda: 80)
    console.show(progress(1))
    console.show(progress(2))  # too early to be drawn
    console.done()
    console.done()
    *_, last, end = on_screen(stream.getvalue())
    assert last.startswith("2 events")
    assert end == ""


def test_done_repeats_no_line_that_stands_there_already(plain, stream):
    plain.show(progress(1))
    plain.done()
    assert len(stream.getvalue().splitlines()) == 1


def test_a_stream_that_is_no_terminal_gets_plain_lines(stream):
    assert not Console(stream).interactive


def test_a_broken_stream_is_given_up_once_and_said_once(stream, clock, caplog):
    console = Console(stream, interactive=False, clock=clock)
    stream.close()
    for second in (0.0, 10.0, 20.0):
        clock.now = second
        console.show(progress())
    console.done()
    assert [record.message for record in caplog.records] == [
        "no more progress is shown: I/O operation on closed file"
    ]
