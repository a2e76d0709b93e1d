"""Contains tests for `examples/`: each configuration builds, and those that can be run are run."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import zmq

from connectors.stdio import StdinSource
from stream_rnn import app, commands

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
CONFIGS = sorted(path.name for path in EXAMPLES.glob("*.toml"))
REPLAY = EXAMPLES / "replay.py"
TEXT = "# A text\nin a few\nshort\nlines\n"


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, where relative paths of the examples lead."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "README.md").write_text(TEXT)
    lines = [
        json.dumps({"timestamp": f"2026-01-01T{hour:02}:00:00", "load": hour % 5 + 0.5})
        for hour in range(24)
    ]
    (tmp_path / "power.jsonl").write_text("\n".join(lines) + "\n")
    return tmp_path


def adapted(name: str, **replaced: str) -> Path:
    """The example, with a free port for the status page and what else must differ here."""
    text = (EXAMPLES / name).read_text().replace("127.0.0.1:9464", "127.0.0.1:0")
    for old, new in replaced.items():
        assert f"\n{old} = " in text, f"{name} has no key {old}"
        lines = [
            f"{old} = {new}" if line.startswith(f"{old} = ") else line for line in text.split("\n")
        ]
        text = "\n".join(lines)
    path = Path(name)
    path.write_text(text)
    return path


def predictions(path: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


@pytest.mark.parametrize("name", CONFIGS)
def test_every_example_builds(name: str, workplace: Path) -> None:
    job = app.build(tomllib.loads((EXAMPLES / name).read_text()))
    assert job.engine.task.inputs > 0


@pytest.mark.parametrize("name", CONFIGS)
def test_every_example_keeps_a_state_of_its_own(name: str) -> None:
    dirs = [
        tomllib.loads((EXAMPLES / other).read_text()).get("state", {}).get("dir", "state")
        for other in CONFIGS
    ]
    assert dirs.count(dirs[CONFIGS.index(name)]) == 1


@pytest.mark.parametrize("name", CONFIGS)
def test_an_example_says_how_to_run_it(name: str) -> None:
    text = (EXAMPLES / name).read_text()
    assert text.startswith("# ")
    assert f"examples/{name}" in text


@pytest.mark.parametrize(
    "name", ["classification", "next_symbol", "regression", "river", "synthetic", "jsonl"]
)
def test_the_example_predicts_and_learns(name: str, workplace: Path) -> None:
    config = adapted(f"{name}.toml")
    commands.run(config, 4, fresh=False)
    written = "predictions.jsonl" if name == "jsonl" else f"state/{name}/predictions.jsonl"
    made = predictions(written)
    assert len(made) == 4
    assert all(line["prediction"] is not None for line in made)
    # a byte is a step, with the ends of the lines put back
    assert made[-1]["step"] == (len(TEXT) if name == "next_symbol" else 4)


def test_the_host_example_forecasts_every_metric(workplace: Path) -> None:
    pytest.importorskip("psutil")
    commands.run(adapted("host.toml", interval_s="0.05"), 3, fresh=False)
    made = predictions("host.jsonl")
    assert len(made) == 3
    assert made[-1]["scored"] is not None
    assert set(made[-1]["prediction"]) >= {"cpu_percent", "n_processes"}


def test_the_fptt_example_learns_its_episodes_to_the_end(workplace: Path) -> None:
    """Short ones: knowing nothing costs 1/6, and the first number must be kept for the second."""
    command = [sys.executable, str(EXAMPLES / "adding.py"), "--length", "4", "--rounds", "60"]
    Path("adding.jsonl").write_bytes(subprocess.run(command, check=True, stdout=-1).stdout)
    commands.run(adapted("fptt.toml"), None, fresh=False)
    last = [json.loads(line)["last"] for line in Path("adding.jsonl").read_text().splitlines()]
    made = predictions("state/fptt/predictions.jsonl")
    assert len(made) == len(last) == 8 * 60 * 4
    assert made[-1]["step"] == 60 * 4  # an event of each stream in a tick
    ends = [line["scored"]["loss"] for line, is_last in zip(made, last, strict=True) if is_last]
    assert sum(ends[-120:]) / 120 < 0.04 < 0.1 < sum(ends[:80]) / 80
    command = [*command[:4], "--errors", "state/fptt/predictions.jsonl"]
    told = subprocess.run(command, check=True, stdout=-1, text=True).stdout.split()[-10:]
    tenths = [sum(ends[i : i + 48]) / 48 for i in range(0, 480, 48)]
    assert told == [f"{mean:.3f}" for mean in tenths]


def test_the_stdin_example_reads_a_pipe_and_answers_on_standard_output(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    read, write = os.pipe()
    os.write(write, b'{"value": 1.0}\n{"value": 2.0}\n{"value": 3.5}\n')
    os.close(write)
    monkeypatch.setattr(StdinSource, "fd", read)
    commands.run(adapted("stdin.toml"), None, fresh=False)
    os.close(read)
    made = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert len(made) == 3
    assert set(made[-1]["prediction"]) == {"mean", "std"}


def test_the_zeromq_example_learns_what_replay_sends(workplace: Path) -> None:
    rows = ["seqless,sensor,temperature,humidity"]
    rows += [f",{'ab'[n % 2]},{20 + n},{40 - n}" for n in range(8)]
    Path("sensors.csv").write_text("\n".join(rows))
    text = adapted("zeromq.toml").read_text()
    port_in, port_out = free_ports(2)
    text = text.replace("127.0.0.1:5555", f"127.0.0.1:{port_in}")
    Path("zeromq.toml").write_text(text.replace("127.0.0.1:5556", f"127.0.0.1:{port_out}"))
    with replay("sensors.csv", "--connect", f"tcp://127.0.0.1:{port_in}") as producer:
        commands.run(Path("zeromq.toml"), 8, fresh=False)
        assert producer.wait(300) == 0
    made = predictions("predictions.jsonl")
    assert [line["key"] for line in made] == list("abababab")
    assert made[2]["scored"]["target"] == {"temperature": 22.0, "humidity": 38.0}


def test_the_zeromq_router_example_learns_each_line_once(workplace: Path) -> None:
    (port,) = free_ports(1)
    text = adapted("zeromq_router.toml").read_text().replace("127.0.0.1:5555", f"127.0.0.1:{port}")
    Path("zeromq_router.toml").write_text(text)
    command = [sys.executable, str(EXAMPLES / "producer.py"), "power.jsonl", "--id", "meter-1"]
    command += ["--connect", f"tcp://127.0.0.1:{port}"]
    with subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(ROOT)}) as producer:
        try:
            for n in (10, 14):  # what the first run leaves comes to the second
                commands.run(Path("zeromq_router.toml"), n, fresh=False)
            assert producer.wait(300) == 0
        finally:
            producer.kill()
    made = predictions("state/zeromq_router/predictions.jsonl")
    assert [line["id"] for line in made] == [f"producer/meter-1:{n}" for n in range(1, 25)]


def test_replay_numbers_its_messages_and_converts_numbers(workplace: Path) -> None:
    Path("a.csv").write_text("time,load,note\ntype,,\n2026-01-01,2,x\n2026-01-02,2.5,\n")
    assert received("a.csv", "--skip-lines", "1") == [
        [{"time": "2026-01-01", "load": 2, "note": "x", "seq": 0}],
        [{"time": "2026-01-02", "load": 2.5, "note": None, "seq": 1}],
    ]


def test_replay_names_the_columns_of_a_file_without_a_header(workplace: Path) -> None:
    Path("a.csv").write_text("1,2,3\n4,5,6\n")
    options = ("--columns", "a,b", "--sequence", "none", "--max-events", "1")
    assert received("a.csv", *options) == [[{"a": 1, "b": 2}]]


def test_replay_sends_the_lines_of_a_jsonl_file_with_a_number_frame(workplace: Path) -> None:
    got = received("power.jsonl", "--sequence", "frame", "--max-events", "2")
    first = {"timestamp": "2026-01-01T00:00:00", "load": 0.5}
    assert got[0] == [(0).to_bytes(8, "big"), first]
    assert got[1][0] == (1).to_bytes(8, "big")


def test_replay_keeps_to_its_rate(workplace: Path) -> None:
    Path("a.csv").write_text("a\n" + "1\n" * 20)
    with replay("a.csv", "--bind", "tcp://127.0.0.1:*", "--pattern", "pub", "--wait", "0",
                "--rate", "50") as producer:  # fmt: skip
        _, said = producer.communicate(timeout=120)
    words = said.decode().split()
    assert words[1] == "20"
    assert float(words[4]) >= 0.38  # the last of 20 leaves 19/50 s after the first


def test_replay_gives_up_on_a_reader_that_never_comes(workplace: Path) -> None:
    with replay("power.jsonl", "--bind", "tcp://127.0.0.1:*", "--linger", "0.2") as producer:
        _, said = producer.communicate(timeout=120)
    assert producer.returncode == 1
    assert b"no reader" in said


@pytest.mark.parametrize(
    ("script", "content", "arguments", "said"),
    [
        ("replay.py", None, ["--to", "x.jsonl"], "No such file"),
        ("replay.py", b"", ["--to", "x.jsonl"], "a.csv is empty"),
        ("replay.py", b"a;b\n1;2\n", ["--to", "x.jsonl"], "try --delimiter ';'"),
        ("replay.py", b"\xff\xfe\x00", ["--to", "x.jsonl"], "can't decode"),
        ("replay.py", b"a\n1\n", ["--connect", "127.0.0.1:5555"], "Invalid argument"),
        ("producer.py", None, ["--id", "m"], "No such file"),
        ("producer.py", b"a\n", ["--id", "m", "--connect", "127.0.0.1:1"], 'expected "tcp://'),
    ],
)
def test_a_script_says_what_is_wrong(
    workplace: Path, script: str, content: bytes | None, arguments: list[str], said: str
) -> None:
    if content is not None:
        Path("a.csv").write_bytes(content)
    command = [sys.executable, str(EXAMPLES / script), "a.csv", *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, check=False, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def replay(*arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, str(REPLAY), *arguments], stderr=subprocess.PIPE)


def received(*arguments: str) -> list[list[Any]]:
    """The messages that replay sends: JSON payloads decoded, other frames as they came."""
    context = zmq.Context()
    pull = context.socket(zmq.PULL)
    pull.set(zmq.LINGER, 0)
    port = pull.bind_to_random_port("tcp://127.0.0.1")
    with replay(*arguments, "--connect", f"tcp://127.0.0.1:{port}") as producer:
        assert producer.wait(300) == 0
    messages = []
    while pull.poll(100):
        *frames, payload = pull.recv_multipart()
        messages.append([*frames, json.loads(payload)])
    context.destroy()
    return messages


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports
