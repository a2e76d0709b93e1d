"""The commands, as a person types them."""

import errno
import http.client
import json
import logging
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from stream_rnn import app
from stream_rnn.checkpoint.owner import read_epoch
from stream_rnn.checkpoint.store import Store
from stream_rnn.cli import _exit_code, cli
from stream_rnn.control.server import ControlServer
from stream_rnn.daemon import make_runtime
from stream_rnn.http.pages import pages
from stream_rnn.http.server import HttpServer
from stream_rnn.runtime.loop import Runtime
from stream_rnn.spi import EndOfStream
from stream_rnn.testing import ListSink, ScriptedSource

MINIMAL = """
[source]
kind = "jsonl"
path = "events.jsonl"
[task]
kind = "forecast"
target = "y"
"""
QUICK = (
    MINIMAL
    + """
[learner]
cell = { kind = "gru", units = 4 }
credit = { kind = "rtrl" }
"""
)


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("events.jsonl").write_text("".join(f'{{"y": {n % 5}, "x": 1}}\n' for n in range(40)))
    Path("config.toml").write_text(QUICK)


def run(capfd: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> tuple[str, str]:
    capfd.readouterr()
    got = _exit_code(lambda: cli.main(list(arguments), standalone_mode=False))
    out, err = capfd.readouterr()
    assert got == code, err
    return out, err


def predictions(path: str = "state/predictions.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


# Help -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [[], *([name] for name in cli.commands)], ids=str)
def test_every_command_has_a_help_page(command: list[str]) -> None:
    result = CliRunner().invoke(cli, [*command, "--help"])
    assert result.exit_code == 0
    assert "Usage:" in result.output


def test_help_loads_neither_torch_nor_river_nor_numpy() -> None:
    code = (
        "import sys\n"
        "sys.argv = ['stream-rnn', 'run', '--help']\n"
        "from stream_rnn.cli import main\n"
        "try:\n"
        "    main()\n"
        "except SystemExit as stop:\n"
        "    assert stop.code == 0, stop.code\n"
        "print(sorted({'torch', 'river', 'numpy', 'zmq'} & set(sys.modules)), file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=300
    )
    assert done.stderr.strip() == "[]"


def test_python_dash_m_works_too() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "stream_rnn", "--version"],
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    assert re.fullmatch(r"stream-rnn, version \d+\.\d+\.\d+\n", done.stdout)


@pytest.mark.parametrize("arguments", [["rnu"], ["run"], ["run", "a", "--max-events", "0"]])
def test_a_mistyped_command_is_told_in_one_line(
    arguments: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    _, err = run(capfd, *arguments, code=2)
    assert "Error: " in err
    assert "Traceback" not in err


# run ------------------------------------------------------------------------------------------


def test_a_source_and_a_target_are_enough(capfd: pytest.CaptureFixture[str]) -> None:
    Path("config.toml").write_text(MINIMAL)
    _, err = run(capfd, "run", "config.toml")
    for word in ("lstm(units=32)", "rtrl -> ", "tbptt(window=32)", "chosen", "replayable"):
        assert word in err
    lines = predictions()
    assert len(lines) == 40
    assert lines[-1].keys() == {
        "id", "key", "partition", "position", "prediction", "step", "replayed", "scored",
    }  # fmt: skip
    assert lines[-1]["scored"].keys() == {"id", "target", "loss"}
    assert lines[-1]["scored"]["id"] == lines[-2]["id"]


def test_the_inputs_of_a_regression_are_found_out(capfd: pytest.CaptureFixture[str]) -> None:
    Path("events.jsonl").write_text(
        "no JSON\n" + '{"id": "a", "y": 1, "x": 2, "ok": true, "c": "red", "at": [1]}\n' * 5
    )
    text = QUICK.replace("forecast", "regression")
    Path("config.toml").write_text(text + '[lanes]\nkey = "id"\n')
    out, _ = run(capfd, "show", "config.toml")
    assert json.loads(out[: out.rindex("model fingerprint")])["features"] == {
        "numeric": ["x", "ok"],
        "categorical": ["c"],
    }
    run(capfd, "run", "config.toml")
    assert len(predictions()) == 5


@pytest.mark.parametrize("x", ["1e400", '"' + "x" * 1000 + '"', "9" * 400])
def test_odd_values_in_the_first_event_do_not_hinder_finding_out_the_inputs(
    x: str, capfd: pytest.CaptureFixture[str]
) -> None:
    Path("events.jsonl").write_text(f'{{"y": 1, "x": {x}, "z": 2}}\n{{"y": 1, "z": 2}}\n' * 3)
    Path("config.toml").write_text(QUICK.replace("forecast", "regression"))
    out, _ = run(capfd, "show", "config.toml")
    assert json.loads(out[: out.rindex("model fingerprint")])["features"]["numeric"] == ["z"]


def test_part_of_the_learner_may_be_left_to_us(capfd: pytest.CaptureFixture[str]) -> None:
    Path("config.toml").write_text(MINIMAL + "[learner]\ncell = { kind = 'tanh', units = 4 }\n")
    _, err = run(capfd, "check", "config.toml")
    assert "tanh(units=4)" in err + _
    Path("config.toml").write_text(MINIMAL + "[learner]\ncredit = { kind = 'rtrl' }\n")
    out, _ = run(capfd, "check", "config.toml")
    assert "lstm(units=32)" in out
    assert "tbptt" not in out  # who names a rule gets that rule


def test_it_resumes_and_says_so(capfd: pytest.CaptureFixture[str]) -> None:
    _, err = run(capfd, "run", "config.toml", "--max-events", "15")
    assert "fresh: no snapshot in state" in err
    _, err = run(capfd, "run", "config.toml")
    assert "resumes at step 15 from step-000000000015" in err
    assert [line["step"] for line in predictions()] == list(range(1, 41))


def test_the_host_is_a_stream(capfd: pytest.CaptureFixture[str]) -> None:
    config = QUICK.replace('"jsonl"\npath = "events.jsonl"', '"host"\ninterval_s = 0.02')
    Path("config.toml").write_text(config.replace('"y"', '["load1", "memory_used"]'))
    _, err = run(capfd, "run", "config.toml", "--max-events", "3")
    assert "at most once" in err
    lines = predictions()
    assert len(lines) == 3
    assert lines[2]["prediction"].keys() == {"load1", "memory_used"}


# check, show, evaluate, demo ------------------------------------------------------------------


def test_check_says_what_is_sound(capfd: pytest.CaptureFixture[str]) -> None:
    out, _ = run(capfd, "check", "config.toml")
    assert "closed-form derivatives equal numerical ones" in out
    assert "the source opens" in out
    assert "fresh: no snapshot" in out
    assert not Path("state").exists()


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            'target = "y"',
            'target = "z"',
            "none can be used; field 'z' is missing; the event has: x",
        ),
        ('"events.jsonl"', '"config.toml"', "none can be used; expected a JSON object, got 8"),
        ('"forecast"', '"regression"', "none holds the target 'q', so nothing would be learned"),
        ('"events.jsonl"', '"folder"', "cannot open folder: Is a directory"),
    ],
)
def test_check_looks_at_what_the_source_holds(
    capfd: pytest.CaptureFixture[str], old: str, new: str, said: str
) -> None:
    Path("folder").mkdir()
    text = (QUICK + '[features]\nnumeric = ["x"]\n').replace(old, new)
    Path("config.toml").write_text(text.replace('"y"', '"q"' if "regression" in new else '"y"'))
    before = Path("config.toml").read_bytes()
    out, err = run(capfd, "check", "config.toml", code=78)
    assert said in out + err
    assert not Path("state").exists()
    assert Path("config.toml").read_bytes() == before


def test_check_tells_of_events_that_would_be_refused(capfd: pytest.CaptureFixture[str]) -> None:
    with Path("events.jsonl").open("a") as file:
        file.write('{"y": null, "x": 1}\nno JSON\n')
    out, _ = run(capfd, "check", "config.toml")
    assert "of the next 42 events 2 would be refused; field 'y' is missing: it is null" in out


def test_check_reads_events_as_a_run_does(capfd: pytest.CaptureFixture[str]) -> None:
    Path("config.toml").write_text(QUICK + '[lanes]\nend = "x"\n')
    out, _ = run(capfd, "check", "config.toml", code=78)
    assert "none can be used; field 'x': expected true or false ([lanes] end)" in out


def test_check_says_when_there_is_nothing_to_learn_from(capfd: pytest.CaptureFixture[str]) -> None:
    Path("events.jsonl").write_text("")
    Path("config.toml").write_text(QUICK + '[features]\nnumeric = ["x"]\n')
    out, _ = run(capfd, "check", "config.toml")
    assert "the source has no event (more)" in out


def test_check_refuses_a_file_for_a_state_folder(capfd: pytest.CaptureFixture[str]) -> None:
    Path("config.toml").write_text(QUICK + '[state]\ndir = "events.jsonl"\n')
    _, err = run(capfd, "check", "config.toml", code=78)
    assert "[state] dir: 'events.jsonl' is no folder" in err


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("/proc/x", "[state] dir = '/proc/x': nothing can be written there"),
        ("events.jsonl/x", "[state] dir: 'events.jsonl' is no folder"),
    ],
)
def test_check_refuses_a_state_folder_that_cannot_be_made(
    capfd: pytest.CaptureFixture[str], place: str, said: str
) -> None:
    Path("config.toml").write_text(f'{QUICK}[state]\ndir = "{place}"\n')
    _, err = run(capfd, "check", "config.toml", code=78)
    assert said in err


def test_check_says_where_readers_ask_and_where_their_token_will_be(
    capfd: pytest.CaptureFixture[str],
) -> None:
    Path("config.toml").write_text(
        f'{QUICK}[metrics]\naddress = "127.0.0.1:0"\n[readers]\naddress = "tcp://127.0.0.1:0"\n'
    )
    out, _ = run(capfd, "check", "config.toml")
    assert "  readers      tcp://127.0.0.1:0\n  token        state/token, for POST /predict" in out
    assert not Path("state").exists()


@pytest.mark.parametrize(("n", "code"), [(16, 0), (17, 78)])
def test_check_counts_the_classes_of_the_sample(
    capfd: pytest.CaptureFixture[str], n: int, code: int
) -> None:
    lines = [json.dumps({"y": i % n + 0.5, "x": 1}) for i in range(60)]
    Path("events.jsonl").write_text("\n".join(lines) + "\n")
    text = QUICK.replace('"forecast"', '"classification"') + '[features]\nnumeric = ["x"]\n'
    Path("config.toml").write_text(text)
    out, _ = run(capfd, "check", "config.toml", code=code)
    assert ("BUT          the next 60 events: 17 classes in the target 'y'" in out) is bool(code)


def test_check_of_a_followed_file_that_may_come_later_says_so_once(
    capfd: pytest.CaptureFixture[str],
) -> None:
    Path("config.toml").write_text(QUICK.replace('"events.jsonl"', '"later.jsonl"\nfollow = true'))
    out, _ = run(capfd, "check", "config.toml", code=78)
    assert "ok           later.jsonl may come later: a run waits for it" in out
    assert "BUT          the source is not reachable now: later.jsonl does not exist yet" in out


def test_a_state_that_learned_nothing_may_be_left_behind_at_no_loss(
    capfd: pytest.CaptureFixture[str],
) -> None:
    text = Path("config.toml").read_text()
    Path("config.toml").write_text(text.replace('target = "y"', 'target = "typo"'))
    run(capfd, "run", "config.toml")
    Path("config.toml").write_text(text)
    _, err = run(capfd, "run", "config.toml", code=78)
    assert "task.target: the state has 'typo', the configuration 'y'" in err
    assert "It has learned nothing yet: start over with --fresh, which loses nothing" in err


def test_an_interrupted_start_says_that_nothing_was_learned(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*given: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("stream_rnn.commands.run", interrupted)
    _, err = run(capfd, "run", "config.toml", code=130)
    assert err == "stream-rnn: interrupted before the start; nothing was learned\n"


@pytest.mark.parametrize("group", [[], ["ckpt"], ["dlq"]])
def test_help_says_of_each_command_what_it_does_without_being_cut(
    capfd: pytest.CaptureFixture[str], group: list[str]
) -> None:
    out, _ = run(capfd, *group, "--help")
    assert "..." not in out.partition("Commands:")[2]


def test_a_run_says_in_the_end_what_could_not_be_used(capfd: pytest.CaptureFixture[str]) -> None:
    with Path("events.jsonl").open("a") as file:
        file.write('no JSON\n{"y": "high", "x": 1}\n')
    _, err = run(capfd, "run", "config.toml")
    assert (
        "2 events could not be used (decode 1, features 1); the newest: field 'y': expected" in err
    )


def test_what_there_is_one_of_is_told_in_the_singular(capfd: pytest.CaptureFixture[str]) -> None:
    Path("events.jsonl").write_text('{"y": 1}\n{"y": 2}\n?\n')
    Path("config.toml").write_text(QUICK + '[features]\nnumeric = ["y"]\n')
    _, err = run(capfd, "run", "config.toml")
    assert " 1 input, " in err
    assert "1 scored event;" in err
    assert "1 event could not be used (decode 1); the newest: expected a JSON object" in err
    assert "got 1 byte b'?'" in err
    _, err = run(capfd, "dlq", "ls", "config.toml")
    assert err == "1 of 1 dead letter\n"


def test_a_run_without_an_event_says_so(capfd: pytest.CaptureFixture[str]) -> None:
    run(capfd, "run", "config.toml")
    _, err = run(capfd, "run", "config.toml")
    assert "no event came" in err


def test_a_type_is_named_as_it_is_written(capfd: pytest.CaptureFixture[str]) -> None:
    Path("config.toml").write_text(MINIMAL + '[learner]\ncell = "gru"\n')
    _, err = run(capfd, "check", "config.toml", code=78)
    assert "[learner] cell: expected a table { key = ... } | an array [...], got str ('gru')" in err


def test_check_of_a_source_that_is_not_there_yet_is_refused(
    capfd: pytest.CaptureFixture[str],
) -> None:
    Path("config.toml").write_text(QUICK.replace("events.jsonl", "later.jsonl"))
    _, err = run(capfd, "check", "config.toml", code=78)
    assert "later.jsonl" in err


@contextmanager
def daemon_on(directory: Path) -> Iterator[Store]:
    """What a daemon does for those beside it: it holds the folder and answers at its socket."""

    def ask(verb: str, argument: str) -> Future[dict[str, Any]]:
        answer: Future[dict[str, Any]] = Future()
        answer.set_result({"ok": True, "text": ""})
        return answer

    with closing(Store(directory)) as store:
        store.open()
        with closing(ControlServer(directory, ask, list)) as server:
            server.open()
            yield store


def test_check_tells_of_the_process_that_has_the_state_and_leaves_it_alone(
    capfd: pytest.CaptureFixture[str],
) -> None:
    run(capfd, "run", "config.toml", "--max-events", "5")
    out, _ = run(capfd, "check", "config.toml")
    assert "in use" not in out
    with daemon_on(Path("state")) as store:
        out, _ = run(capfd, "check", "config.toml")
        assert re.search(rf"^  ok +state: in use by process {os.getpid()};", out, re.MULTILINE)
        assert read_epoch(store.directory) == store.epoch
        _, err = run(capfd, "run", "config.toml", code=78)
    assert f"in use by process {os.getpid()}; stop it" in err


@pytest.mark.parametrize("listener", ["metrics", "readers", "source"])
def test_check_beside_its_daemon_does_not_blame_the_addresses_that_one_has(
    capfd: pytest.CaptureFixture[str], listener: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        text = f'{QUICK}[metrics]\naddress = "{address}"\n'
        if listener == "readers":
            text = f'{QUICK}[readers]\naddress = "tcp://{address}"\n'
        if listener == "source":
            line = f'kind = "zeromq_router"\naddress = "tcp://{address}"'
            text = QUICK.replace('kind = "jsonl"\npath = "events.jsonl"', line)
        Path("config.toml").write_text(text)
        _, err = run(capfd, "check", "config.toml", code=78)
        assert f"[{listener}]" in err
        with daemon_on(Path("state")):
            out, _ = run(capfd, "check", "config.toml")
    assert "taken: a daemon runs on this state folder, so it was not tried" in out


def test_check_looks_at_the_newest_snapshot(capfd: pytest.CaptureFixture[str]) -> None:
    for _ in range(3):
        run(capfd, "run", "config.toml", "--max-events", "5")
    out, _ = run(capfd, "check", "config.toml")
    assert "resumes at step 15" in out


@pytest.mark.parametrize(
    "arguments",
    [
        ("ctl", "closed", "status"),
        ("show", "closed"),
        ("dlq", "ls", "closed"),
        ("ckpt", "ls", "closed"),
        ("health", "closed"),
        ("top", "closed"),
    ],
    ids=" ".join,
)
def test_what_another_user_keeps_closed_is_named_with_the_remedy(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    asked = os.stat

    def denied(path: Any, **more: Any) -> os.stat_result:  # root may look into what is 0000
        if str(path) == "closed":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return asked(path, **more)

    monkeypatch.setattr(os, "stat", denied)
    _, err = run(capfd, *arguments, code=78)
    assert err.startswith("stream-rnn: closed: this user may not read it; be the daemon's user")


@pytest.mark.parametrize("command", ["run", "check", "evaluate", "show"])
def test_another_user_s_configuration_is_named_with_the_remedy(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    def denied(path: Path) -> bytes:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(os, "access", lambda *given, **more: False)
    monkeypatch.setattr(Path, "read_bytes", denied)
    _, err = run(capfd, command, "config.toml", code=78)
    assert err.startswith("stream-rnn: config.toml: this user may not read it; be the daemon's")


def test_show_tells_the_effective_configuration(capfd: pytest.CaptureFixture[str]) -> None:
    Path("config.toml").write_text(MINIMAL)
    out, _ = run(capfd, "show", "config.toml")
    text, _, fingerprint = out.rpartition("model fingerprint ")
    shown = json.loads(text)
    assert shown["learner"]["cell"] == {"kind": "lstm", "units": 32}
    assert shown["codec"] == {"kind": "json"}
    assert re.fullmatch(r"[0-9a-f]{64}\n", fingerprint)


def test_show_stars_secrets(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    Path("vault.py").write_text(
        "from connectors.jsonl import JsonlSource\n"
        "class Source(JsonlSource):\n"
        "    def __init__(self, path: str, password: str):\n"
        "        super().__init__(path)\n"
    )
    text = QUICK.replace('"jsonl"', '"vault:Source"\npassword = "hunter2"')
    Path("config.toml").write_text(text)
    out, err = run(capfd, "show", "config.toml")
    assert "hunter2" not in out + err
    assert '"password": "********"' in out


def test_show_tells_what_the_newest_snapshot_holds(capfd: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        run(capfd, "run", "config.toml", "--max-events", "5")
    out, _ = run(capfd, "show", "state")
    assert "step         10" in out
    assert re.search(r"head\.V_PF +float32 \[1, ", out)
    older, _ = run(capfd, "show", "state/step-000000000005")
    assert "step         5\n" in older


def test_show_of_a_folder_without_snapshots_is_refused(capfd: pytest.CaptureFixture[str]) -> None:
    Path("empty").mkdir()
    _, err = run(capfd, "show", "empty", code=78)
    assert err == "stream-rnn: empty: no snapshots here\n"


def test_evaluate_prints_scores_beside_baselines_over_seeds(
    capfd: pytest.CaptureFixture[str],
) -> None:
    out, _ = run(capfd, "evaluate", "config.toml", "--seeds", "2", "--plot", "x.html")
    assert out.count("persistence") == 2
    assert "over seeds: mean (least .. largest)" in out
    assert "MAE" in out
    assert Path("x.html").read_text().lstrip().lower().startswith("<!doctype html")
    assert not Path("state").exists()


def test_matplotlib_says_nothing_about_its_fonts(capfd: pytest.CaptureFixture[str]) -> None:
    logging.getLogger("matplotlib.font_manager").setLevel(logging.NOTSET)
    run(capfd, "show", "config.toml")
    logging.getLogger("matplotlib.font_manager").info("generated new fontManager")
    assert "fontManager" not in capfd.readouterr().err


def test_evaluate_scores_what_run_scores(capfd: pytest.CaptureFixture[str]) -> None:
    out, _ = run(capfd, "evaluate", "config.toml", "--plot", "x.html")
    _, err = run(capfd, "run", "config.toml")
    rows = [line for line in out.splitlines() if line.startswith(("MAE", "RMSE"))]
    assert len(rows) == 2
    assert all(row in err for row in rows)


def test_the_demo_clears_its_own_folder_only(capfd: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        run(capfd, "demo", "--max-events", "5", "--out", "demo")
    assert len(predictions("demo/predictions.jsonl")) == 5
    Path("state").mkdir()
    Path("state/precious").touch()
    _, err = run(capfd, "demo", "--max-events", "5", "--out", ".", code=78)
    assert "that no demo made" in err
    assert Path("state/precious").exists()


# The status page of a running daemon ----------------------------------------------------------


def get(port: int, path: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", path)
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer.status, text


def test_the_status_page_follows_the_daemon() -> None:
    registry = CollectorRegistry()
    job = app.build(
        {
            "source": {"kind": "synthetic"},
            "task": {"kind": "forecast", "target": "y"},
            "learner": {"cell": {"kind": "gru", "units": 4}, "credit": {"kind": "rtrl"}},
        }
    )
    reached, go_on = threading.Event(), threading.Event()

    class Pausing(ListSink):
        def write(self, records: Any) -> None:
            super().write(records)
            reached.set()
            go_on.wait(120)

    job.source = ScriptedSource([*({"y": n % 5} for n in range(20)), b"bad", EndOfStream()])
    job.sinks, job.dead_letters = [Pausing()], ListSink()
    from io import StringIO

    from stream_rnn.console import Console

    runtime: Runtime = make_runtime(job, None, registry, Console(StringIO()))
    asked: list[Callable[[], Any]] = [runtime.watch.status, runtime.watch.live, runtime.watch.ready]
    with HttpServer("127.0.0.1:0", pages(registry, *asked)) as server:
        assert get(server.port, "/readyz")[0] == 503
        assert "the source is not connected" in get(server.port, "/readyz")[1]
        daemon = threading.Thread(target=runtime.run)
        daemon.start()
        try:
            assert reached.wait(120)
            assert get(server.port, "/readyz") == (200, "ok\n")
            assert get(server.port, "/livez") == (200, "ok\n")
            status = json.loads(get(server.port, "/status")[1])
            assert status["step"] == 20
            rejected = {"decode": 1, "features": 0, "learn": 0, "poison": 0}
            assert status["events_rejected"] == rejected
        finally:
            go_on.set()
            daemon.join(120)
        code, text = get(server.port, "/metrics")
        letters = json.loads(get(server.port, "/status")[1])["letters"]
    assert [(each["stage"], each["issue"]) for each in letters] == [("decode", "undecodable")]
    assert code == 200
    families = {family.name: family for family in text_string_to_metric_families(text)}
    values = {
        name: {tuple(s.labels.values()): s.value for s in families[f"stream_rnn_{name}"].samples}
        for name in (
            "events_in", "events_applied", "events_rejected", "dead_letters", "predictions",
            "prequential_loss", "baseline_loss", "gradient_norm", "fallback_level", "step",
            "lag_events", "snapshot_age_seconds", "lanes_used", "build_info", "connected",
            "prequential_metric", "guarantee_info", "feature_issues", "credit_info",
        )
    }  # fmt: skip
    assert values["events_in"][("source",)] == 21
    assert values["events_applied"][()] == 20
    assert values["events_rejected"][("decode",)] == 1
    assert values["dead_letters"][("decode",)] == 1
    assert values["step"][()] == 20
    assert values["credit_info"] == {("rtrl",): 1}
    assert values["prequential_metric"][("mae",)] > 0
    assert any(s.name.endswith("_bucket") for s in families["stream_rnn_tick_seconds"].samples)
