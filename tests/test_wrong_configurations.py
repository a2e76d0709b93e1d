"""A configuration that cannot be used: one message, the place, the remedy, exit 78."""

import fcntl
import json
import os
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from stream_rnn.cli import _exit_code, cli

GOOD = """
[source]
kind = "jsonl"
path = "events.jsonl"
[task]
kind = "forecast"
target = "y"
[learner]
cell = { kind = "gru", units = 4 }
credit = { kind = "rtrl" }
[state]
dir = "state"
"""


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    lines = [json.dumps({"y": n % 5, "x": n % 3, "c": "ab"[n % 2]}) for n in range(12)]
    Path("events.jsonl").write_text("\n".join(lines) + "\n")


def outcome(capfd: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    code = _exit_code(lambda: cli.main(list(arguments), standalone_mode=False))
    return code, capfd.readouterr().err


def refused(capfd: pytest.CaptureFixture[str], text: str, command: str = "run") -> str:
    """The message that the configuration `text` is refused with."""
    Path("config.toml").write_text(text)
    code, err = outcome(capfd, command, "config.toml")
    assert code == 78, err
    assert "Traceback" not in err
    before, _, message = err.partition("stream-rnn: ")
    assert "stream-rnn: " not in before + message
    return message.strip()


def changed(old: str, new: str) -> str:
    assert old in GOOD
    return GOOD.replace(old, new)


REGRESSION = changed('kind = "forecast"', 'kind = "regression"')
BYTES = 'kind = "next_symbol"\nfield = "c"\nunit = "byte"\n'

CASES: dict[str, tuple[str, list[str]]] = {
    "not TOML": ("[source\n", ["config.toml", "not valid TOML", "line 1"]),
    "empty": ("", ["[source] is missing", 'kind = "jsonl"']),
    "unknown table": (GOOD + "[sauce]\n", ["unknown table [sauce]", "did you mean 'source'?"]),
    "table as value": ("source = 5\n", ["[source]", "expected a table", "5"]),
    "sink as table": (GOOD + "[sink]\nkind='jsonl'\n", ["[[sink]]"]),
    "kind missing": (changed('kind = "jsonl"\n', ""), ["[source] kind is missing"]),
    "kind no text": (changed('kind = "jsonl"', "kind = 5"), ["[source] kind", "5"]),
    "kind a list": (changed('kind = "forecast"', 'kind = ["a"]'), ["[task] kind", "['a']"]),
    "unknown source": (
        changed('"jsonl"', '"jsnl"'),
        ["[source] unknown kind 'jsnl'", "did you mean 'jsonl'?", "zeromq"],
    ),
    "unknown task": (changed('"forecast"', '"x"'), ["[task] unknown kind 'x'", "regression"]),
    "unknown cell": (changed('"gru"', '"grrr"'), ["[learner] cell", "'grrr'", "lstm"]),
    "unknown rule": (changed('"rtrl"', '"bptt"'), ["[learner] credit", "'bptt'", "tbptt"]),
    "unknown codec": (GOOD + "[codec]\nkind = 'xml'\n", ["[codec]", "'xml'", "msgpack"]),
    "codec key": (GOOD + "[codec]\nkin = 'xml'\n", ["[codec] unknown key", "kind"]),
    "unknown key": (
        changed("path =", "pth ="),
        ["[source] unknown key 'pth'", "did you mean 'path'?", "follow"],
    ),
    "unknown deep key": (changed("units", "untis"), ["[learner] cell unknown key 'untis'"]),
    "unknown calendar key": (
        GOOD + "[features]\ncalendar = { field = 'at', cycle = ['day'] }\n",
        ["[features] calendar unknown key 'cycle'", "did you mean 'cycles'?"],
    ),
    "wrong type": (
        changed('path = "events.jsonl"', "path = 5"),
        ["[source] path: expected str, got int", "(5)"],
    ),
    "wrong deep type": (changed("units = 4", "units = 'big'"), ["[learner] cell", "expected int"]),
    "target no text": (changed('target = "y"', "target = 5"), ["[task] target", "got int"]),
    "target missing": (changed('target = "y"\n', ""), ["[task] 'target' is missing"]),
    "no numbers": (GOOD + "[features]\nnumeric = 'y'\n", ["[features] numeric", "array"]),
    "unknown cycle": (
        GOOD + "[features]\ncalendar = { field = 'at', cycles = ['dy'] }\n",
        ["[features] calendar", 'expected "hour", "day", "week"', "got 'dy'"],
    ),
    "sink is the source": (
        GOOD + "[[sink]]\nkind = 'jsonl'\npath = './events.jsonl'\n",
        ["[[sink]] path: ./events.jsonl is the file of [source]", "a file of its own"],
    ),
    "letters are the source": (
        GOOD + "[dead_letter]\npath = 'events.jsonl'\n",
        ["[dead_letter] path: events.jsonl is the file of [source]"],
    ),
    "two sinks, one file": (
        GOOD + "[[sink]]\nkind = 'jsonl'\npath = 'o'\n[[sink]]\nkind = 'jsonl'\npath = './o'\n",
        ["[[sink]] path: ./o is the file of [[sink]]"],
    ),
    "source a folder": (changed('"events.jsonl"', '"."'), ["cannot open .", "name a file"]),
    "calendar text": (GOOD + "[features]\ncalendar = 'at'\n", ["[features] calendar"]),
    "cycle": (
        GOOD + "[features]\ncalendar = { field = 'at', cycles = ['lunch'] }\n",
        ["[features] calendar", "'lunch'"],
    ),
    "no harmonics": (
        GOOD + "[features]\ncalendar = { field = 'at', harmonics = 0 }\n",
        ["[features] calendar", "harmonics must be in 1..64, got 0"],
    ),
    "lag of nothing": (
        GOOD + "[features]\nlags = { z = [1] }\n",
        ["[features] lags", "'z' is not among numeric"],
    ),
    "missing file": (
        changed('"events.jsonl"', '"evnts.jsonl"'),
        ["[source] path", "there is no file evnts.jsonl", "correct it"],
    ),
    "directory for a file": (changed('"events.jsonl"', '"."'), ["[source] path", "."]),
    "leak": (
        REGRESSION + "[features]\nnumeric = ['x', 'y']\n",
        ["[task]", "'y' is among the features of its own prediction", "remove it"],
    ),
    "leak by category": (
        REGRESSION + "[features]\ncategorical = ['y']\n",
        ["[task]", "'y' is among the features"],
    ),
    "leak of the next symbol by key": (
        "source = { kind = 'synthetic' }\ntask = { kind = 'next_symbol', field = 'w' }\n"
        "[lanes]\nkey = 'w'\n",
        ["[lanes] key = 'w' is the target", "another field"],
    ),
    "leak by key": (
        REGRESSION + "[features]\nnumeric = ['x']\n[lanes]\nkey = 'y'\n",
        ["[lanes] key = 'y' is the target", "another field"],
    ),
    "horizon 0": (
        changed('target = "y"', 'target = "y"\nhorizon = 0'),
        ["[task] horizon must be in 1..100000, got 0", "regression"],
    ),
    "season 0": (changed('target = "y"', 'target = "y"\nseason = 0'), ["[task]", "season", "0"]),
    "tau": (
        changed('target = "y"', 'target = "y"\nloss = "quantile"\ntau = 1.5'),
        ["[task]", "tau", "1.5"],
    ),
    "loss": (changed('target = "y"', 'target = "y"\nloss = "l3"'), ["[task] loss", "l3"]),
    "one class": (
        changed('kind = "forecast"', 'kind = "classification"\nclasses = ["a"]')
        + "[features]\nnumeric = ['x']\n",
        ["[task] at least 2 classes", "1"],
    ),
    "rank 0": (
        changed('{ kind = "rtrl" }', '{ kind = "ok", rank = 0 }'),
        ["[learner] credit rank must be at least 1, got 0"],
    ),
    "window 0": (changed('{ kind = "rtrl" }', '{ kind = "tbptt", window = 0 }'), ["window", "0"]),
    "no units": (changed("units = 4", "units = 0"), ["[learner] cell units", "0"]),
    "too many units": (changed("units = 4", "units = 10000000"), ["[learner]", "fewer units"]),
    "learning rate": (
        changed("[state]", "optimizer = { kind = 'adam', lr = -1.0 }\n[state]"),
        ["[learner] optimizer lr must be positive and finite, got -1.0"],
    ),
    "rule without kind": (changed('kind = "rtrl"', ""), ["[learner] credit: kind is missing"]),
    "explicit and incomplete": (
        changed("[state]", 'kind = "explicit"\n[state]'),
        ["[learner] optimizer is missing", 'kind = "auto"'],
    ),
    "learner kind": (changed("[state]", 'kind = "magic"\n[state]'), ["[learner]", "'magic'"]),
    "no such device": (changed("[state]", 'device = "abacus"\n[state]'), ["[learner]", "abacus"]),
    "threads": (changed("[state]", "threads = 0\n[state]"), ["[learner] threads", "0"]),
    "seed": (changed("[state]", "seed = -1\n[state]"), ["[learner] seed must be in", "-1"]),
    "governor": (
        changed("[state]", "governor = { trips = 0 }\n[state]"),
        ["[learner] governor trips must be at least 1, got 0"],
    ),
    "capacity": (GOOD + "[lanes]\ncapacity = 0\n", ["[lanes] capacity must be", "got 0"]),
    "block": (GOOD + "[lanes]\nblock = -1\n", ["[lanes] block must be at least 1, got -1"]),
    "batching": (GOOD + "[lanes]\nbatching = 'some'\n", ["[lanes] batching", "some"]),
    "every_s": (GOOD + "every_s = -1.0\n", ["[state] every_s must be positive, got -1.0"]),
    "every_events": (GOOD + "every_events = 0\n", ["[state] every_events must be positive"]),
    "keep": (GOOD + "keep = 0\n", ["[state] keep must be positive, got 0"]),
    "state is a file": (changed('"state"', '"events.jsonl"'), ["[state] dir", "events.jsonl"]),
    "poll_events": (GOOD + "[limits]\npoll_events = 0\n", ["[limits] poll_events", "0"]),
    "event_bytes": (GOOD + "[limits]\nevent_bytes = 0\n", ["[limits] event_bytes", "0"]),
    "keep_bytes": (GOOD + "[dead_letter]\nkeep_bytes = -1\n", ["[dead_letter] keep_bytes", "-1"]),
    "letter file": (
        GOOD + "[dead_letter]\npath = 'events.jsonl/x'\n",
        ["[dead_letter] path: cannot write events.jsonl/x"],
    ),
    "sink file": (
        GOOD + "[[sink]]\nkind = 'jsonl'\npath = 'events.jsonl/x'\n",
        ["[[sink]] path: cannot write events.jsonl/x"],
    ),
    "address": (GOOD + "[metrics]\naddress = 'here'\n", ["[metrics] address", "127.0.0.1:9464"]),
    "address for all": (
        GOOD + "[metrics]\naddress = '0.0.0.0:9464'\n",
        ["[metrics] address", "can be reached by other machines", "insecure = true"],
    ),
    "secret of no variable": (
        changed('"events.jsonl"', '"env:STREAM_RNN_NO_SUCH"'),
        ["[source] path", "environment variable 'STREAM_RNN_NO_SUCH'", "not set"],
    ),
    "secret of no file": (
        changed('"events.jsonl"', '"file:nowhere"'),
        ["[source] path", "nowhere", "No such file"],
    ),
    "plug-in of no module": (
        changed('"jsonl"', '"no_such_thing.sources:Mine"'),
        ["[source] kind = 'no_such_thing.sources:Mine'", "no module 'no_such_thing'"],
    ),
    "nothing to learn from": (
        changed('kind = "forecast"\ntarget = "y"', BYTES.replace("byte", "bite")),
        ["[task] unit", "bite"],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_it_is_refused_naming_the_place_and_the_remedy(
    case: str, capfd: pytest.CaptureFixture[str]
) -> None:
    text, expected = CASES[case]
    message = refused(capfd, text)
    for part in expected:
        assert part in message
    assert len(message) < 700


def test_the_configuration_all_cases_start_from_runs(capfd: pytest.CaptureFixture[str]) -> None:
    Path("config.toml").write_text(GOOD)
    code, err = outcome(capfd, "run", "config.toml")
    assert code == 0, err
    lines = Path("state/predictions.jsonl").read_text().splitlines()
    assert [json.loads(line)["position"] for line in lines] == sorted(
        json.loads(line)["position"] for line in lines
    )
    assert len(lines) == 12


@pytest.mark.parametrize("command", ["check", "show", "evaluate"])
@pytest.mark.parametrize("case", ["unknown key", "leak", "rank 0"])
def test_every_command_refuses_it_alike(
    command: str, case: str, capfd: pytest.CaptureFixture[str]
) -> None:
    text, expected = CASES[case]
    message = refused(capfd, text, command)
    assert expected[0] in message


@pytest.mark.parametrize("name", [".", "nowhere.toml", "events.jsonl"])
def test_what_is_no_configuration_file_is_refused(
    name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    code, err = outcome(capfd, "run", name)
    assert code == 78
    assert f"stream-rnn: {name}: " in err


def test_cuda_without_a_device_is_refused(capfd: pytest.CaptureFixture[str]) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has one")
    message = refused(capfd, changed("[state]", 'device = "cuda"\n[state]'))
    assert "[learner] device = 'cuda' cannot be used" in message


PLUG_INS = {
    "raises": ("raise ValueError('a bug of mine')", "its import failed: ValueError: a bug of mine"),
    "leaves": ("import sys; sys.exit(3)", "its import failed: SystemExit: 3"),
    "misses": ("import no_such_library", "import failed: No module named 'no_such_library'"),
    "is_wrong": ("def (", "its import failed: SyntaxError"),
    "has_no_class": ("x = 1", "has no 'Mine'"),
    "is_no_class": ("Mine = 5", "not a subclass of stream_rnn.spi.Source"),
    "is_no_source": ("class Mine: pass", "not a subclass of stream_rnn.spi.Source"),
    "is_half": (
        "from stream_rnn.spi import Source\nclass Mine(Source):\n def open(self, r): pass",
        "the class leaves out close, poll",
    ),
    "asks_oddly": (
        """
        from __future__ import annotations
        from stream_rnn.spi import Source
        class Mine(Source):
            def __init__(self, x: NoSuchType): pass
            def open(self, r): pass
            def poll(self, n, s): pass
            def close(self): pass
        """,
        "an annotation cannot be read: name 'NoSuchType'",
    ),
}


@pytest.mark.parametrize("name", PLUG_INS)
def test_a_plug_in_that_cannot_be_used_is_told_apart_from_a_missing_one(
    name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    code, expected = PLUG_INS[name]
    Path(f"plug_in_that_{name}.py").write_text(textwrap.dedent(code))
    text = changed('"jsonl"\npath = "events.jsonl"', f'"plug_in_that_{name}:Mine"')
    message = refused(capfd, text)
    assert message.startswith("[source]")
    assert expected in message


@contextmanager
def listening() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_a_port_in_use_is_named(capfd: pytest.CaptureFixture[str]) -> None:
    with listening() as port:
        message = refused(capfd, GOOD + f"[metrics]\naddress = '127.0.0.1:{port}'\n")
    assert f"[metrics] address: 127.0.0.1:{port} is in use" in message
    assert "choose another port" in message


def test_a_zeromq_port_in_use_is_named(capfd: pytest.CaptureFixture[str]) -> None:
    with listening() as port:
        source = f'kind = "zeromq"\naddress = "tcp://127.0.0.1:{port}"\nbind = true'
        message = refused(capfd, changed('kind = "jsonl"\npath = "events.jsonl"', source))
    assert f"[source] address: cannot bind to tcp://127.0.0.1:{port}" in message


def test_inputs_are_not_looked_for_in_what_producers_send(
    capfd: pytest.CaptureFixture[str],
) -> None:
    text = """source = { kind = "zeromq_router" }
task = { kind = "regression", target = "y" }"""
    assert "[features] is missing: name the inputs" in refused(capfd, text)


def test_a_state_folder_in_use_names_the_process(capfd: pytest.CaptureFixture[str]) -> None:
    Path("state").mkdir()
    with Path("state/lock").open("w") as lock:
        lock.write("4711\n")
        lock.flush()
        fcntl.flock(lock, fcntl.LOCK_EX)
        message = refused(capfd, GOOD)
    assert "[state] dir = 'state'" in message
    assert "in use by process 4711" in message


def run_once(capfd: pytest.CaptureFixture[str], text: str = GOOD) -> None:
    Path("config.toml").write_text(text)
    code, err = outcome(capfd, "run", "config.toml")
    assert code == 0, err


@pytest.mark.parametrize("command", ["run", "check"])
def test_the_state_of_another_model_is_refused_with_what_differs(
    command: str, capfd: pytest.CaptureFixture[str]
) -> None:
    run_once(capfd)
    other = changed("units = 4", "units = 5").replace('target = "y"', 'target = "x"')
    message = refused(capfd, other, command)
    assert "[state] dir = 'state' holds another model" in message
    assert "learner.cell.units: the state has 4, the configuration 5" in message
    assert "task.target: the state has 'y', the configuration 'x'" in message
    assert "credit" not in message
    assert "--fresh" in message


def test_fresh_moves_the_state_of_another_model_aside(capfd: pytest.CaptureFixture[str]) -> None:
    run_once(capfd)
    Path("config.toml").write_text(changed("units = 4", "units = 5"))
    code, err = outcome(capfd, "run", "--fresh", "config.toml")
    assert code == 0, err
    (old,) = Path().glob("state.old-*")
    assert list(old.glob("step-*"))


def test_what_makes_no_other_model_may_change(capfd: pytest.CaptureFixture[str]) -> None:
    run_once(capfd)
    extra = "keep = 7\n[limits]\npoll_events = 3\n[dead_letter]\nkeep_bytes = 1\n"
    run_once(capfd, GOOD + extra)


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)


@pytest.mark.parametrize("command", ["run", "check"])
def test_snapshots_that_are_all_damaged_are_refused_never_replaced(
    command: str, capfd: pytest.CaptureFixture[str]
) -> None:
    run_once(capfd)
    for file in Path("state").glob("step-*/state.safetensors"):
        damage(file)
    message = refused(capfd, GOOD, command)
    assert message.startswith("[state]")
    assert "can be trusted" in message
    assert list(Path("state").glob("step-*"))


def test_a_secret_never_stands_in_a_message(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STREAM_RNN_TEST_SECRET", "hunter2")
    text = changed(
        'path = "events.jsonl"', 'path = "events.jsonl"\nfollow = "env:STREAM_RNN_TEST_SECRET"'
    )
    message = refused(capfd, text)
    assert "[source] follow" in message
    assert "env:STREAM_RNN_TEST_SECRET" in message
    assert "hunter2" not in message


def process(*command: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    environment.pop("PYTHONPATH", None)
    return subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=300, env=environment
    )


SCRIPT = str(Path(sys.executable).parent / "stream-rnn")


def test_a_real_process_exits_with_78_and_one_line() -> None:
    Path("config.toml").write_text(CASES["unknown key"][0])
    done = process(SCRIPT, "run", "config.toml")
    assert done.returncode == 78
    assert done.stdout == ""
    assert done.stderr.startswith("stream-rnn: [source] unknown key 'pth'")
    assert done.stderr.count("\n") == 1


def test_a_plug_in_from_the_working_directory_is_found_by_the_installed_script() -> None:
    Path("my_own.py").write_text(
        textwrap.dedent(
            """
            from stream_rnn.spi import Batch, EndOfStream, Event, Source

            class Three(Source):
                def open(self, resume):
                    self.n = 0

                def poll(self, max_events, timeout_s):
                    if self.n == 3:
                        raise EndOfStream
                    self.n += 1
                    event = Event("three", self.n, b'{"y": %d}' % self.n)
                    return Batch([event], {"three": self.n})

                def close(self):
                    pass
            """
        )
    )
    text = changed('kind = "jsonl"\npath = "events.jsonl"', 'kind = "my_own:Three"')
    Path("config.toml").write_text(text)
    done = process(SCRIPT, "run", "config.toml")
    assert done.returncode == 0, done.stderr
    lines = Path("state/predictions.jsonl").read_text().splitlines()
    assert [json.loads(line)["id"] for line in lines] == ["three:1", "three:2", "three:3"]
