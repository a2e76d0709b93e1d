import json
import resource
import signal
from pathlib import Path
from typing import Any

import pytest

from connectors.jsonl import JsonlSink
from stream_rnn.spi import NotConnected, SettingError
from stream_rnn.testing import check_sink


def _read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "out" / "predictions.jsonl"


def test_the_sink_conforms(path: Path) -> None:
    check_sink(lambda: JsonlSink(str(path)), lambda: _read(path))


def test_the_sink_conforms_while_it_rotates_all_the_time(path: Path) -> None:
    def read() -> list[dict[str, Any]]:
        return [r for n in range(80, 0, -1) for r in _read(Path(f"{path}.{n}"))] + _read(path)

    check_sink(lambda: JsonlSink(str(path), max_bytes=100, keep=80), read)


def test_a_torn_last_line_is_cut_on_open(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path.parent.mkdir()
    path.write_bytes(b'{"n": 1}\n{"n": ')
    sink = JsonlSink(str(path))
    sink.open()
    sink.write([{"n": 2}])
    sink.close()
    assert _read(path) == [{"n": 1}, {"n": 2}]
    assert "cut a torn last line of 6 bytes" in caplog.text


@pytest.mark.parametrize("size", [10, 262_144, 700_000])
def test_a_torn_only_line_of_any_length_is_cut(path: Path, size: int) -> None:
    path.parent.mkdir()
    for whole in (b"", b"{}\n"):
        path.write_bytes(whole + b"x" * size)
        sink = JsonlSink(str(path))
        sink.open()
        sink.close()
        assert path.read_bytes() == whole


def test_old_files_move_on_and_the_oldest_goes(path: Path) -> None:
    sink = JsonlSink(str(path), max_bytes=20, keep=2)
    sink.open()
    for n in range(10):
        sink.write([{"number": n}])  # 12 bytes: one line a file
    sink.close()
    assert sorted(p.name for p in path.parent.iterdir()) == [
        "predictions.jsonl",
        "predictions.jsonl.1",
        "predictions.jsonl.2",
    ]
    assert _read(path) == [{"number": 9}]
    assert _read(Path(f"{path}.1")) == [{"number": 8}]
    assert _read(Path(f"{path}.2")) == [{"number": 7}]


def test_rotation_without_flush_does_not_collect_open_files(path: Path) -> None:
    sink = JsonlSink(str(path), max_bytes=1, keep=2)
    sink.open()
    n_before = len(list(Path("/proc/self/fd").iterdir()))
    for n in range(50):
        sink.write([{"n": n}])
    assert len(list(Path("/proc/self/fd").iterdir())) <= n_before + 2
    sink.close()


def test_a_write_that_fails_half_way_is_taken_back_and_can_be_repeated(path: Path) -> None:
    sink = JsonlSink(str(path))
    sink.open()
    sink.write([{"n": 1}])
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20, limits[1]))  # a disk full after 20 bytes
    try:
        with pytest.raises(NotConnected, match="File too large"):
            sink.write([{"text": "x" * 50}])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert _read(path) == [{"n": 1}]
    sink.write([{"text": "x" * 50}])
    sink.close()
    assert _read(path) == [{"n": 1}, {"text": "x" * 50}]


def test_a_record_that_cannot_be_encoded_leaves_no_part_of_its_batch(path: Path) -> None:
    sink = JsonlSink(str(path))
    sink.open()
    with pytest.raises(TypeError):
        sink.write([{"n": 1}, {"n": object()}])
    sink.close()
    assert _read(path) == []


def test_nan_is_written_as_null(path: Path) -> None:
    sink = JsonlSink(str(path))
    sink.open()
    sink.write([{"loss": float("nan")}])
    sink.close()
    assert _read(path) == [{"loss": None}]


def test_two_sinks_cannot_share_a_file(path: Path) -> None:
    first, second = JsonlSink(str(path)), JsonlSink(str(path))
    first.open()
    with pytest.raises(SettingError, match=r"^path: another process writes"):
        second.open()
    first.close()
    second.open()
    second.close()


def test_a_path_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "file" / "below"):
        with pytest.raises(SettingError, match=r"^path: cannot write"):
            JsonlSink(str(path)).open()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"path": ""}, "path: expected"),
        ({"path": "f", "max_bytes": 0}, "max_bytes: must be at least 1, got 0"),
        ({"path": "f", "keep": 0}, "keep: must be at least 1, got 0"),
    ],
    ids=["path", "max_bytes", "keep"],
)
def test_wrong_settings_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError, match=f"^{message}"):
        JsonlSink(**settings)


def test_writing_to_a_sink_that_is_not_open_says_so(path: Path) -> None:
    with pytest.raises(NotConnected, match="is not open"):
        JsonlSink(str(path)).write([{}])
