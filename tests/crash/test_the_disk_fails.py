"""Full, read-only, damaged: garbage is never loaded, learning goes on, and /readyz tells."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from benchmarks.storm.place import (
    CONFIG,
    Kind,
    Place,
    differences,
    finish,
    free_port,
    undisturbed,
)
from benchmarks.storm.stream import write_events
from stream_rnn.checkpoint.snapshot import snapshots

pytestmark = pytest.mark.slow
Make = Callable[..., Place]

N_EVENTS = 150
STATE = '[state]\ndir = "state"\nevery_events = 20\nevery_s = 0.2\n'


@pytest.fixture
def mount() -> Iterator[Callable[[Path], None]]:
    """Makes a disk of 4 MB at a folder."""
    mounted: list[Path] = []

    def mount(folder: Path) -> None:
        if os.geteuid() != 0 or not shutil.which("mount"):
            pytest.skip("needs root, to mount a small tmpfs")
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
        if (done := subprocess.run(command, capture_output=True, check=False)).returncode:
            pytest.skip(f"cannot mount a small tmpfs: {done.stderr.decode()}")
        mounted.append(folder)

    yield mount
    for folder in mounted:
        subprocess.run(["umount", "--lazy", folder], check=True)


def fill(folder: Path) -> Path:
    """Leave no byte on the disk that holds `folder`."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (1 << 16, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue
    return filler


def ready(port: int) -> str:
    """What /readyz says; "" if all is well."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=60):
            return ""
    except urllib.error.HTTPError as error:
        return error.read().decode()


def wait_for(condition: Callable[[], bool], what: str) -> None:
    until = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < until, f"waited in vain until {what}"
        time.sleep(0.05)


def test_learning_goes_on_without_snapshots_and_readyz_says_so_in_time(
    make: Make, mount: Callable[[Path], None], tmp_path: Path
) -> None:
    stream, port = tmp_path / "stream.jsonl", free_port()
    write_events(stream, 1, 50)
    config = CONFIG.replace("[limits]", "[limits]\nunsaved_s = 1.0")
    more = f'[metrics]\naddress = "127.0.0.1:{port}"\n'
    place = make("place", "jsonl", stream, follow=True, config=config, state=STATE, more=more)
    mount(place.folder / "state")
    daemon = place.daemon()
    place.wait_for(50)
    wait_for(lambda: ready(port) == "", "it is ready")

    filler = fill(place.folder / "state")
    write_events(stream, 51, 100)
    wait_for(lambda: len(place.lines()) == 98, "it learned on")  # two cannot be used
    wait_for(lambda: "no snapshot for" in ready(port), "/readyz tells")
    assert place.applied() == 50
    assert "free space or permissions" in place.log()
    assert daemon.poll() is None

    filler.unlink()
    wait_for(lambda: place.applied() == 100, "snapshots work again")
    wait_for(lambda: ready(port) == "", "it is ready again")
    write_events(stream, 101, N_EVENTS)
    finish(place, daemon, N_EVENTS)
    assert "snapshots work again" in place.log()
    calm = make("calm", "jsonl", stream)
    undisturbed(calm, N_EVENTS)
    assert differences(place, calm) == []


def test_a_kill_while_the_disk_is_full_costs_only_a_repetition(
    make: Make, mount: Callable[[Path], None], tmp_path: Path
) -> None:
    stream = tmp_path / "stream.jsonl"
    write_events(stream, 1, 50)
    place = make("place", "jsonl", stream, follow=True, state=STATE)
    mount(place.folder / "state")
    daemon = place.daemon()
    place.wait_for(50)
    filler = fill(place.folder / "state")
    write_events(stream, 51, 100)
    wait_for(lambda: len(place.lines()) == 98, "it learned on")
    assert daemon.kill() == -signal.SIGKILL

    daemon = place.daemon()  # on a full disk
    assert daemon.wait() == 78
    assert "No space left on device" in place.log()
    assert "Traceback" not in place.log()
    filler.unlink()
    daemon = place.daemon()
    write_events(stream, 101, N_EVENTS)
    finish(place, daemon, N_EVENTS)
    calm = make("calm", "jsonl", stream)
    undisturbed(calm, N_EVENTS)
    assert differences(place, calm) == []


@pytest.mark.parametrize("file", ["predictions", "letters"])
def test_a_full_disk_under_a_sink_holds_the_learner_back_and_tears_no_line(
    file: str, make: Make, mount: Callable[[Path], None], tmp_path: Path
) -> None:
    stream = tmp_path / "stream.jsonl"
    write_events(stream, 1, 40)
    config = CONFIG.replace(f'"{file}.jsonl"', f'"out/{file}.jsonl"')
    place = make("place", "jsonl", stream, follow=True, config=config, state=STATE)
    mount(place.folder / "out")
    daemon = place.daemon()
    place.wait_for(40)
    filler = fill(place.folder / "out")
    write_events(stream, 41, 100)
    wait_for(lambda: "No space left on device" in place.log(), "it noticed")
    time.sleep(0.5)
    assert place.applied() < 100
    filler.unlink()
    write_events(stream, 101, N_EVENTS)
    finish(place, daemon, N_EVENTS)
    shutil.copy(place.folder / f"out/{file}.jsonl", place.folder / f"{file}.jsonl")
    calm = make("calm", "jsonl", stream)
    undisturbed(calm, N_EVENTS)
    assert differences(place, calm) == []


def test_a_state_folder_that_cannot_be_written_is_refused(
    make: Make, mount: Callable[[Path], None]
) -> None:
    place = make("place", "jsonl")
    mount(place.folder / "state")
    subprocess.run(["mount", "-o", "remount,ro", place.folder / "state"], check=True)
    assert place.daemon().wait() == 78
    assert "[state] dir = 'state'" in place.log()
    assert "Read-only file system" in place.log()
    assert "Traceback" not in place.log()


def test_two_daemons_never_share_a_state_folder(make: Make, tmp_path: Path) -> None:
    stream = tmp_path / "stream.jsonl"
    write_events(stream, 1, 50)
    place = make("place", "jsonl", stream, follow=True)
    first = place.daemon()
    place.wait_for(50)
    assert place.daemon().wait() == 78
    assert f"in use by process {first.pid}" in place.log()
    write_events(stream, 51, N_EVENTS)
    finish(place, first, N_EVENTS)
    calm = make("calm", "jsonl", stream)
    undisturbed(calm, N_EVENTS)
    assert differences(place, calm) == []


def test_a_stream_shorter_than_the_position_is_refused_with_both(
    make: Make, tmp_path: Path
) -> None:
    stream = tmp_path / "stream.jsonl"
    write_events(stream, 1, 100)
    place = make("place", "jsonl", stream)
    undisturbed(place, 100)
    size = stream.stat().st_size
    os.truncate(stream, size // 2)
    before = [path.name for path in snapshots(place.folder / "state")]
    assert place.daemon().wait() == 78
    assert f"holds {size // 2} bytes, but was read up to byte {size}" in place.log()
    assert [path.name for path in snapshots(place.folder / "state")] == before


CLOCK = """
import time
from connectors.jsonl import JsonlSource
real, polls = time.time, 0

class Jumping(JsonlSource):
    def poll(self, max_events, timeout_s):
        global polls
        polls += 1
        time.time = lambda: real() + (-86400 * 365 if polls % 2 else 86400 * 365)
        return super().poll(max_events, timeout_s)
"""


def test_a_wall_clock_that_jumps_by_years_changes_nothing(
    make: Make, calm: Callable[[Kind], Place]
) -> None:
    place = make("place", "jsonl")
    (place.folder / "jumping.py").write_text(CLOCK)
    config = place.folder / "config.toml"
    config.write_text(config.read_text().replace('"jsonl"', '"jumping:Jumping"', 1))
    assert place.daemon("in_tick:77").wait() == -signal.SIGKILL
    finish(place, place.daemon(), N_EVENTS)
    assert differences(place, calm("jsonl")) == []


@pytest.fixture(scope="module")
def torn(
    tmp_path_factory: pytest.TempPathFactory, calm: Callable[[Kind], Place]
) -> dict[Kind, Place]:
    """Folders that a killed daemon left behind."""
    made: dict[Kind, Place] = {}
    for kind in ("jsonl", "router+journal"):
        like = calm(kind)
        place = Place.make(tmp_path_factory.mktemp("torn") / kind, kind, like.events, like.nursery)
        daemon = place.daemon("after_rename:2")  # however slow the disk is, there are two
        if kind != "jsonl":
            place.producer()
        assert daemon.wait() == -signal.SIGKILL, place.log()
        assert len(snapshots(place.folder / "state")) > 1
        assert place.daemon("in_tick:9").wait() == -signal.SIGKILL, place.log()
        place.clear()
        if kind == "jsonl":  # a second death, so that there is a suspicion
            assert place.daemon("in_tick:3").wait() == -signal.SIGKILL, place.log()
        made[kind] = place
    return made


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :]


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "half": lambda data: data[: len(data) // 2],
    "flipped": lambda data: flipped(data, len(data) // 2),
    "flipped at the end": lambda data: flipped(data, len(data) - 1),
    "foreign": lambda data: random.Random(1).randbytes(max(1, len(data))),
}
SOCKETS = shutil.ignore_patterns("*.sock")
FILES = [
    ("jsonl", "state/step-*/state.safetensors"),
    ("jsonl", "state/step-*/host.json"),
    ("jsonl", "state/step-*/manifest.json"),
    ("jsonl", "state/attempt"),
    ("jsonl", "state/quarantine.json"),
    ("jsonl", "state/epoch"),
    ("jsonl", "state/lock"),
    ("router+journal", "state/journal/*.journal"),
    ("router+journal", "state/journal/durable"),
    ("router+journal", "state/attempt"),
]


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize(("kind", "file"), FILES, ids=lambda value: value.split("/")[-1])
def test_a_damaged_file_is_refused_or_changes_nothing(
    kind: Kind,
    file: str,
    damage: str,
    torn: dict[Kind, Place],
    calm: Callable[[Kind], Place],
    tmp_path: Path,
) -> None:
    like = torn[kind]
    folder = shutil.copytree(like.folder, tmp_path / "copy", ignore=SOCKETS)
    place = Place(folder, kind, like.events, like.nursery, like.port)
    path = max(folder.glob(file))
    path.write_bytes(DAMAGE[damage](path.read_bytes()))
    (folder / "log").unlink()

    daemon = place.daemon()
    try:
        if kind == "router+journal":
            producer = place.producer()
            wait_for(lambda: daemon.poll() is not None or place.applied() >= N_EVENTS, "an end")
            if daemon.poll() is None:
                finish(place, daemon, N_EVENTS, producer)
        code = daemon.wait()
    finally:
        place.clear()

    assert "Traceback" not in place.log()
    if code == 78:
        assert re.search(r"\[(state|journal)\] .*", place.log())
        return
    assert code == 0
    found = [each for each in differences(place, calm(kind)) if "does not say so" not in each]
    assert found == []
    if file == "state/attempt" and damage != "flipped at the end":
        assert "torn or is not one" in place.log() or damage == "empty"
