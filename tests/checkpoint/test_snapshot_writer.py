from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from stream_rnn.checkpoint.faults import SAVING
from stream_rnn.checkpoint.files import CheckpointError, Fenced
from stream_rnn.checkpoint.snapshot import SavedInfo, Snapshot, snapshots
from stream_rnn.checkpoint.store import Store
from stream_rnn.checkpoint.writer import Failure, SnapshotWriter

ROOT = Path(__file__).parents[2]


@pytest.fixture
def writer(store: Store) -> Iterator[SnapshotWriter]:
    made = SnapshotWriter(store, before=lambda: None)
    yield made
    made.close()


def test_the_writer_saves_in_the_background(
    writer: SnapshotWriter, store: Store, snapshot: Callable[..., Snapshot]
) -> None:
    assert writer.submit(snapshot(1))
    assert writer.drain(120)

    (saved,) = writer.finished()
    assert isinstance(saved, SavedInfo)
    assert (saved.step, saved.positions) == (1, snapshot(1).positions)
    assert writer.finished() == []
    assert store.newest() is not None


def test_one_snapshot_at_a_time_is_in_flight_and_nobody_waits(
    store: Store, snapshot: Callable[..., Snapshot]
) -> None:
    release = threading.Event()
    writer = SnapshotWriter(store, before=lambda: assert_(release.wait(120)))

    assert writer.submit(snapshot(1))
    started = time.monotonic()
    assert not writer.submit(snapshot(2))
    assert writer.finished() == []
    assert not writer.drain(0.01)
    assert time.monotonic() - started < 60

    release.set()
    assert writer.drain(120)
    assert writer.submit(snapshot(3))
    writer.close()
    assert [result.step for result in writer.finished()] == [1, 3]


def assert_(claim: bool) -> None:
    assert claim


def test_sinks_are_flushed_before_the_state_is_written(
    store: Store, snapshot: Callable[..., Snapshot]
) -> None:
    seen: list[tuple[str, int]] = []

    def flush() -> None:
        entries = len(list(store.directory.glob("step-*")) + list(store.directory.glob(".tmp*")))
        seen.append((threading.current_thread().name, entries))

    writer = SnapshotWriter(store, before=flush)
    writer.submit(snapshot(1))
    writer.close()

    assert seen == [("snapshots", 0)]


def test_no_state_is_written_when_the_sinks_cannot_be_flushed(
    store: Store, caplog: pytest.LogCaptureFixture, snapshot: Callable[..., Snapshot]
) -> None:
    broken = [OSError("sink gone"), OSError("sink gone"), None]

    def flush() -> None:
        if (error := broken.pop(0)) is not None:
            raise error

    writer = SnapshotWriter(store, before=flush)
    for step in (1, 2, 3):
        writer.submit(snapshot(step))
        writer.drain(120)
    writer.close()

    first, second, third = writer.finished()
    assert isinstance(first, Failure)
    assert (first.step, str(first.error)) == (1, "sink gone")
    assert isinstance(second, Failure)
    assert isinstance(third, SavedInfo)
    assert [path.name for path in snapshots(store.directory)] == ["step-000000000003"]
    # One line per change of state: it broke, it works again.
    assert caplog.text.count("sink gone") == 1


def test_a_failed_save_is_reported_and_the_next_one_works(
    writer: SnapshotWriter, snapshot: Callable[..., Snapshot]
) -> None:
    writer.submit(snapshot(1, W=torch.full((2,), float("nan"))))
    writer.drain(120)
    writer.submit(snapshot(2))
    writer.drain(120)

    failed, saved = writer.finished()
    assert isinstance(failed, Failure)
    assert isinstance(failed.error, CheckpointError)
    assert isinstance(saved, SavedInfo)


def test_fencing_reaches_the_loop(
    writer: SnapshotWriter, store: Store, snapshot: Callable[..., Snapshot]
) -> None:
    (store.directory / "epoch").write_text("5\n")
    writer.submit(snapshot(1))
    writer.drain(120)

    (failed,) = writer.finished()
    assert isinstance(failed, Failure)
    assert isinstance(failed.error, Fenced)


def test_the_writer_lets_the_copy_go(
    writer: SnapshotWriter, snapshot: Callable[..., Snapshot]
) -> None:
    tensor = torch.ones(10)
    alive = weakref.ref(tensor)
    writer.submit(snapshot(1, W=tensor))
    del tensor
    assert writer.drain(120)
    gc.collect()

    assert alive() is None


def test_a_closed_writer_refuses(writer: SnapshotWriter, snapshot: Callable[..., Snapshot]) -> None:
    writer.close()
    writer.close()
    with pytest.raises(CheckpointError, match="closed"):
        writer.submit(snapshot(1))


def test_the_stages_of_a_snapshot_come_in_order(
    store: Store, snapshot: Callable[..., Snapshot]
) -> None:
    stages: list[str] = []
    writer = SnapshotWriter(store, before=lambda: None, fault=stages.append)
    writer.submit(snapshot(1))
    writer.drain(120)
    writer.finished()
    writer.close()

    assert stages == ["after_clone", "before_ack"]
    assert set(stages) < set(SAVING)


# One interpreter imports torch and forks a child per stage. The child's program: snapshots of steps
# 1 to 5, each acknowledged (a line in `acked`) once it is durable, killed at the third passage.
KILLED = """
import os, sys
from pathlib import Path
import torch, safetensors.torch

def child(directory):
    from stream_rnn.checkpoint.store import Store
    from stream_rnn.checkpoint.snapshot import Snapshot
    from stream_rnn.checkpoint.writer import SnapshotWriter
    store = Store(directory); store.open(); store.newest()
    writer = SnapshotWriter(store, before=lambda: None)
    for step in range(1, 6):
        W = torch.full((3, 4), float(step))
        writer.submit(Snapshot(step, {"W": W}, b"{}", {"main": {"0": step}}, "f", {}, {}))
        assert writer.drain(120)
        for saved in writer.finished():
            with open(directory / "acked", "a") as file:
                file.write(f"{saved.step}\\n")

for stage in sys.argv[2:]:
    pid = os.fork()
    if pid == 0:
        os.environ["STREAM_RNN_FAULT"] = f"{stage}:3"
        child(Path(sys.argv[1]) / stage)
        os._exit(0)
    print(stage, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, int]]:
    folder = tmp_path_factory.mktemp("killed")
    done = subprocess.run(
        [sys.executable, "-c", KILLED, folder, *SAVING],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    codes = dict(line.split() for line in done.stdout.splitlines())
    return folder, {stage: int(code) for stage, code in codes.items()}


@pytest.mark.parametrize("stage", SAVING)
def test_kill_9_at_any_stage_leaves_a_loadable_state(
    killed: tuple[Path, dict[str, int]],
    stage: str,
    open_store: Callable[[Path], Store],
    snapshot: Callable[..., Snapshot],
) -> None:
    folder, codes = killed
    assert codes[stage] == -signal.SIGKILL

    store = open_store(folder / stage)
    loaded = store.newest()

    assert loaded is not None
    assert loaded.step == (3 if stage in ("after_rename", "before_ack") else 2)
    assert loaded.fallbacks == []
    assert torch.equal(loaded.tensors["W"], torch.full((3, 4), float(loaded.step)))
    acked = int((folder / stage / "acked").read_text().split()[-1])
    assert acked <= loaded.positions["main"]["0"]  # type: ignore[operator]
    assert list(store.directory.glob(".tmp*")) == []
    store.save(snapshot(loaded.step + 1))


@pytest.mark.parametrize("setting", ["nowhere:1", "before_ack:x", "before_ack:-1", ":"])
def test_a_fault_that_would_never_fire_is_refused(setting: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import stream_rnn.checkpoint.store"],
        env={**os.environ, "PYTHONPATH": str(ROOT), "STREAM_RNN_FAULT": setting},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )

    assert done.returncode != 0
    assert "STREAM_RNN_FAULT: expected STAGE:N" in done.stderr
