"""The Dockerfile as text; deploy/docker/try.sh builds and runs it."""

from __future__ import annotations

import fnmatch
import json
import re
from pathlib import Path

import pytest

from stream_rnn.cli import cli

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "deploy" / "docker" / "Dockerfile"


def stages() -> list[str]:
    """The text of each stage, with lines that go on joined."""
    text = re.sub(r"(?m)^\s*#.*\n", "", DOCKERFILE.read_text())
    return re.split(r"(?m)^FROM ", text.replace("\\\n", " "))[1:]


def values(stage: str, instruction: str) -> list[str]:
    return re.findall(rf"(?m)^{instruction} +(.*?) *$", stage)


def let_in(path: str) -> bool:
    """Whether .dockerignore lets a path of the repository into the build; the last line counts."""
    allowed = True
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = line.removeprefix("!")
        if not pattern or pattern.startswith("#"):
            continue
        pattern = pattern.removeprefix("**/")
        parts = path.split("/")
        heads = ["/".join(parts[: i + 1]) for i in range(len(parts))]
        if any(fnmatch.fnmatch(each, pattern) for each in [*heads, *parts]):
            allowed = line.startswith("!")
    return allowed


def test_hadolint_has_nothing_to_say(judge):
    said = judge("hadolint", DOCKERFILE)
    assert (said.returncode, said.stdout) == (0, "")


def test_hadolint_would_say_something(judge, tmp_path):
    wrong = tmp_path / "Dockerfile"
    wrong.write_text(DOCKERFILE.read_text().replace("--no-install-recommends", ""))
    assert "DL3015" in judge("hadolint", wrong).stdout


def test_the_last_stage_holds_no_compiler_and_no_sources():
    build, last = stages()
    assert "g++" in build
    assert not re.search(r"g\+\+|apt-get|pip install", last)
    assert values(last, "COPY") == ["--from=build /opt/stream-rnn /opt/stream-rnn"]


def test_the_library_lies_where_the_last_stage_looks_for_it():
    found = {re.findall(r"STREAM_RNN_CACHE=(\S+)", stage)[0] for stage in stages()}
    (cache,) = found
    assert cache.startswith("/opt/stream-rnn/")


def test_the_process_is_nobody_in_particular():
    assert values(stages()[-1], "USER") == ["10001:10001"]


def test_all_that_is_written_goes_to_the_volume():
    last = stages()[-1]
    assert values(last, "VOLUME") == values(last, "WORKDIR") == ["/var/lib/stream-rnn"]


def test_the_image_is_ended_by_the_signal_that_drains():
    assert values(stages()[-1], "STOPSIGNAL") == ["SIGTERM"]


@pytest.mark.parametrize("instruction", ["HEALTHCHECK", "ENTRYPOINT"])
def test_processes_start_without_a_shell_that_would_keep_signals_to_itself(instruction):
    (value,) = values(stages()[-1], instruction)
    assert json.loads(value[value.index("[") :])[0] == "stream-rnn"


def test_the_commands_in_it_exist():
    (check,) = values(stages()[-1], "HEALTHCHECK")
    (command,) = values(stages()[-1], "CMD")
    assert json.loads(check[check.index("[") :])[1] in cli.commands
    assert json.loads(command)[0] in cli.commands


def test_what_is_copied_exists_and_is_let_in():
    for line in values(stages()[0], "COPY"):
        for path in line.split()[:-1]:
            assert (ROOT / path).exists(), path
            assert let_in(path), path


@pytest.mark.parametrize(
    "path", [".git/config", "state/token", "config.toml", "tests/conftest.py", "deploy/docker/.env"]
)
def test_history_secrets_and_state_stay_out_of_the_build(path):
    assert not let_in(path)
    assert let_in("stream_rnn/native/source/tick.hpp")
