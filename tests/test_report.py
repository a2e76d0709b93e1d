from __future__ import annotations

import base64
import itertools
import json
import math
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from stream_rnn import report
from stream_rnn.report import Point, Recorder, gain, headline, number, plot, table
from stream_rnn.scores import Row
from stream_rnn.spi import SettingError

PNG = b"\x89PNG\r\n\x1a\n"


def mae(model: float | None, **baselines: float | None) -> Row:
    return Row("MAE", model, dict(baselines), 1234, dict.fromkeys(baselines, model))


def through_json(state: dict[str, Any]) -> Any:
    return json.loads(json.dumps(state, allow_nan=False))


def point(event: int, **changes: Any) -> Point:
    values: dict[str, Any] = {"prediction": 1.0, "target": math.sin(event), "loss": 0.5}
    return Point(event, **({**values, "baseline_loss": 1.0} | changes))


def recorded(n: int, capacity: int = 100, last: int = 50, **changes: Any) -> Recorder:
    recorder = Recorder(capacity, last)
    for event in range(n):
        recorder.add(point(event, **changes))
    return recorder


def test_the_table_of_a_winning_model_reads_as_expected() -> None:
    assert table([mae(3.0, persistence=6.0, mean=4.0)]).splitlines() == [
        "metric      model persistence        mean        vs best",
        "--------------------------------------------------------",
        "MAE         3.000*      6.000       4.000         +25.0%",
        "1,234 scored events; * best; vs best = gain over the best baseline",
    ]


def test_the_star_stands_at_the_baseline_that_beats_the_model() -> None:
    text = table([mae(5.0, persistence=6.0, mean=4.0)])
    assert "4.000*" in text
    assert "-25.0%" in text
    assert text.splitlines()[2].count("*") == 1


def test_for_accuracy_higher_is_better_and_gains_are_points() -> None:
    accuracy = Row("accuracy", 0.8, {"a": 0.5, "b": 0.7}, 9, {"a": 0.8, "b": 0.8}, True, "points")
    assert gain(accuracy) == "+10.0 pt"
    assert "0.8000*" in table([accuracy])


def test_gains_of_a_likelihood_are_differences() -> None:
    row = Row("gaussian loss", -1.0, {"mean": 0.5}, 9, {"mean": -1.0}, gain="difference")
    assert gain(row) == "+1.500 nats"


def test_the_gain_compares_on_the_same_events() -> None:
    assert gain(Row("MAE", 100.0, {"mean": 4.0}, 9, {"mean": 3.0})) == "+25.0%"


def test_an_undefined_value_is_a_dash() -> None:
    line = table([mae(None, persistence=None)]).splitlines()[2]
    assert line.split() == ["MAE", "-", "-"]


def test_a_table_of_nothing_says_so() -> None:
    assert table([]) == "nothing scored yet"


def test_no_line_is_wider_than_a_terminal() -> None:
    names = ["MAE", "MAE of a target with a name that is much too long for any table"]
    rows = [
        Row(
            name,
            -1.2345e300,
            {"persistence": 1e-300, "seasonal": -12345.6, "mean": 3.0},
            10**9,
            dict.fromkeys(("persistence", "seasonal", "mean"), 1e300),
        )
        for name in names
    ]
    assert max(map(len, table(rows).splitlines())) <= 80


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (0.0, "0.000"),
        (3.14159, "3.142"),
        (123.456, "123.5"),
        (1234567.8, "1,234,568"),
        (0.00001234, "1.234e-05"),
        (-0.25, "-0.2500"),
        (3e9, "3.000e+09"),
    ],
)
def test_numbers_keep_four_digits(value: float | None, text: str) -> None:
    assert number(value) == text


def test_what_rounding_leaves_is_zero_and_no_gain_is_told_over_it() -> None:
    lines = table([mae(0.33, persistence=0.0, mean=1.1e-16)]).splitlines()
    assert lines[2].split() == ["MAE", "0.3300", "0.000*", "0.000"]
    assert lines[-1].startswith("vs best is empty where that baseline makes no error")
    assert gain(mae(0.33, mean=1.1e-16)) == ""


def test_a_small_error_is_told_as_it_is() -> None:
    text = table([mae(0.33, persistence=1e-9, mean=1.0)])
    assert "1.000e-09*" in text
    assert "vs best is empty" not in text


def test_the_headline_says_what_the_model_beats_and_by_how_much() -> None:
    row = mae(3.0, persistence=6.0, mean=4.0)
    assert headline([row]) == "MAE 3.000: 25.0% better than the best baseline, mean"


def test_the_headline_admits_defeat() -> None:
    assert headline([mae(6.0, persistence=4.0)]) == (
        "MAE 6.000: 50.0% worse than the persistence baseline"
    )


def test_the_headline_without_a_score_says_so() -> None:
    assert headline([mae(None)]) == "nothing scored yet"


def test_the_newest_points_are_kept_in_full() -> None:
    assert [p.event for p in recorded(1000).recent()] == list(range(950, 1000))


@pytest.mark.parametrize("capacity", [7, 100])
def test_the_history_is_evenly_thinned_and_bounded(capacity: int) -> None:
    events = [p.event for p in recorded(12345, capacity).history()]
    assert capacity // 2 <= len(events) <= capacity + 1
    assert events[0] == 0
    assert events[-1] == 12344
    assert len({b - a for a, b in itertools.pairwise(events[:-1])}) == 1


def test_a_short_stream_is_kept_whole() -> None:
    assert [p.event for p in recorded(100).history()] == list(range(100))


def test_values_that_are_not_finite_are_recorded_as_unknown() -> None:
    recorder = Recorder()
    recorder.add(point(0, prediction=math.nan, loss=math.inf))
    recorder.add(point(1, target=math.nan))
    assert recorder.recent() == [point(0, prediction=None, loss=None, target=0.0)]


@pytest.mark.parametrize("n", [0, 1, 99, 100, 101, 5000])
def test_the_recorder_continues_identically_after_json(n: int) -> None:
    straight, resumed = recorded(n), Recorder(100, 50)
    resumed.load_state_dict(through_json(straight.state_dict()))
    for event in range(n, n + 333):
        straight.add(point(event))
        resumed.add(point(event))
    assert resumed.history() == straight.history()
    assert resumed.state_dict() == straight.state_dict()


@pytest.mark.parametrize(
    "change",
    [
        {"capacity": 101},
        {"recent": []},
        {"history": []},
        {"history": [[0, None, 1.0, None, None, None, None]] * 101},
        {"history": [[0]] * 20},
        {"recent": [[None] * 7] * 20},
        {"stride": 0},
        {"stride": "1"},
        {"seen": -1},
    ],
    ids=lambda change: str(change)[:30],
)
def test_a_damaged_trace_is_refused_and_changes_nothing(change: dict[str, Any]) -> None:
    recorder = recorded(20)
    before = recorder.state_dict()
    with pytest.raises(ValueError, match="state of the recorder"):
        recorder.load_state_dict(before | change)
    assert recorder.state_dict() == before


def test_a_picture_is_a_png_of_1000_by_700(tmp_path: Path) -> None:
    path = tmp_path / "run.png"
    plot(path, recorded(300), "Flow", [mae(3.0, persistence=4.0)], "flow [l/s]")
    data = path.read_bytes()
    assert data.startswith(PNG)
    assert (int.from_bytes(data[16:20]), int.from_bytes(data[20:24])) == (1000, 700)
    assert [p.name for p in tmp_path.iterdir()] == ["run.png"]


def test_names_full_of_markup_are_drawn_as_they_are(tmp_path: Path) -> None:
    hostile = r"$\frac{$<script>alert(1)</script>"
    path = tmp_path / "run.html"
    plot(path, recorded(30), hostile, [], hostile, hostile, hostile)
    page = path.read_text()
    assert "<script>" not in page
    assert "&lt;script&gt;" in page


def test_a_page_carries_its_picture_and_its_table(tmp_path: Path) -> None:
    rows = [mae(3.0, persistence=4.0)]
    path = tmp_path / "run.html"
    plot(path, recorded(30), "Flow", rows)
    page = path.read_text()
    found = re.search(r'src="data:image/png;base64,([^"]+)"', page)
    assert found is not None
    assert base64.b64decode(found[1]).startswith(PNG)
    assert table(rows) in page
    assert "http" not in page


def test_a_page_says_its_title_once(tmp_path: Path) -> None:
    page, bare = tmp_path / "run.html", tmp_path / "bare.png"
    plot(page, recorded(30), "Flow")
    plot(bare, recorded(30), "")
    assert base64.b64encode(bare.read_bytes()).decode() in page.read_text()
    assert "<h1>Flow</h1>" in page.read_text()


def test_forecasts_are_of_one_stream_and_the_panel_names_it() -> None:
    axes = pytest.importorskip("matplotlib.figure").Figure().subplots()
    words = report._Words("flow", "loss", "mean", "majority", "pipe 7", "prediction")
    report._draw_forecast(axes, recorded(30), words)
    assert axes.get_title(loc="left") == "The last 30 events of pipe 7, the first of several"
    assert [line.get_label() for line in axes.lines] == ["truth", "prediction"]


def test_accuracy_and_loss_are_beside_the_baselines_they_were_recorded_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")
    told: list[tuple[str, str]] = []
    line_of = report._line_of

    def listen(axes: Any, points: Any, value: Any, color: str, style: str, label: str) -> None:
        told.append((label, f"{value(points[0]):g}"))
        line_of(axes, points, value, color, style, label)

    monkeypatch.setattr(report, "_line_of", listen)
    points = recorded(30, accuracy=0.9, baseline_accuracy=0.5)
    plot(tmp_path / "x.png", points, "", baseline="frequencies", guess="no-change")
    assert told == [("model", "0.9"), ("no-change", "0.5"), ("model", "0.5"), ("frequencies", "1")]


def test_a_class_trace_is_drawn_from_its_accuracy(tmp_path: Path) -> None:
    numeric, classes = tmp_path / "numeric.png", tmp_path / "classes.png"
    plot(numeric, recorded(30), "Symbols")
    plot(classes, recorded(30, accuracy=0.9, baseline_accuracy=0.5), "Symbols")
    assert classes.read_bytes() != numeric.read_bytes()


def test_a_trace_without_any_forecast_can_be_drawn(tmp_path: Path) -> None:
    path = tmp_path / "run.png"
    plot(path, recorded(1, prediction=None, loss=None, baseline_loss=None), "Nothing yet")
    assert path.read_bytes().startswith(PNG)


def test_plotting_an_empty_trace_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="no event was recorded"):
        plot(tmp_path / "run.png", Recorder(), "Empty")


def test_another_ending_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=re.escape("run.pdf")):
        plot(tmp_path / "run.pdf", recorded(3), "Flow")


def test_a_missing_matplotlib_is_told_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # what an import of a missing one meets
    with pytest.raises(SettingError, match=re.escape('pip install "stream-rnn[plot]"')):
        plot(tmp_path / "run.png", recorded(3), "Flow")
    assert list(tmp_path.iterdir()) == []


def test_a_logarithmic_axis_is_labelled_with_plain_numbers() -> None:
    figure_of = pytest.importorskip("matplotlib.figure").Figure
    recorder = Recorder()
    for i in range(1, 200):
        recorder.add(Point(i, 1.0, 1.0, loss=1e-3 * 1.05**i, baseline_loss=2e-3 * 1.05**i))
    figure = figure_of()
    with pytest.importorskip("matplotlib").rc_context({"text.parse_math": False}):
        axes = figure.subplots()
        report._draw_loss(axes, recorder, "loss", "persistence")
        figure.canvas.draw()
        labels = [tick.get_text() for tick in axes.get_yticklabels(which="both") if tick.get_text()]
    assert axes.get_yscale() == "log"
    assert len(labels) >= 3
    assert [f"{float(label):g}" for label in labels] == labels
