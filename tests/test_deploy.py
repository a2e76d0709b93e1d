import configparser
import re
import shutil
import subprocess
from pathlib import Path

import pytest

DEPLOY = Path(__file__).parents[1] / "deploy"
UNIT = DEPLOY / "systemd" / "stream-rnn.service"


def tool(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed")
    return path


def verify(unit: Path) -> subprocess.CompletedProcess[str]:
    command = [tool("systemd-analyze"), "verify", "--recursive-errors=yes", str(unit)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def runnable_copy(folder: Path, text: str) -> Path:
    """The unit with a program that exists everywhere; systemd refuses a missing one."""
    unit = folder / UNIT.name
    unit.write_text(re.sub(r"(?m)^ExecStart=.*$", "ExecStart=/bin/true", text), encoding="utf-8")
    return unit


@pytest.fixture
def service() -> dict[str, str]:
    parser = configparser.ConfigParser(interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(UNIT, encoding="utf-8")
    return dict(parser["Service"])


def test_systemd_accepts_every_line_of_the_unit(tmp_path):
    said = verify(runnable_copy(tmp_path, UNIT.read_text(encoding="utf-8")))
    assert (said.returncode, said.stderr) == (0, "")


def test_the_check_of_the_unit_would_find_a_misspelled_line(tmp_path):
    text = UNIT.read_text(encoding="utf-8").replace("RestartSec=", "RestartSecs=")
    assert "RestartSecs" in verify(runnable_copy(tmp_path, text)).stderr


def test_the_unit_starts_the_installed_command(service):
    expected = "/opt/stream-rnn/bin/stream-rnn run /etc/stream-rnn/config.toml"
    assert service["ExecStart"] == expected


def test_a_refused_configuration_is_not_started_again(service):
    assert (service["Restart"], service["RestartPreventExitStatus"]) == ("on-failure", "78")


def test_the_unit_leaves_time_to_write_the_last_snapshot(service):
    assert (service["KillSignal"], service["TimeoutStopSec"]) == ("SIGTERM", "60")


def test_the_unit_may_write_its_state_and_nothing_else(service):
    assert service["ProtectSystem"] == "strict"
    assert service["StateDirectory"] == "stream-rnn"
    assert "ReadWritePaths" not in service


def test_systemd_rates_the_exposure_of_the_unit_as_low(tmp_path):
    unit = runnable_copy(tmp_path, UNIT.read_text(encoding="utf-8"))
    # a threshold of 20 is an exposure of 2.0 of 10; an ordinary unit stands at 9.6
    command = [tool("systemd-analyze"), "security", "--offline=true", "--threshold=20", str(unit)]
    said = subprocess.run(command, capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stdout[-300:]


def test_prometheus_accepts_its_configuration():
    command = [
        tool("promtool"),
        "check",
        "config",
        str(DEPLOY / "prometheus" / "prometheus.yml"),
    ]
    said = subprocess.run(command, capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stdout + said.stderr


def test_systemd_hears_from_the_daemon_and_kills_one_that_hangs(service):
    assert (service["Type"], service["NotifyAccess"]) == ("notify", "main")
    assert service["WatchdogSec"] == "60"


def test_a_reload_asks_the_daemon_to_read_its_configuration_again(service):
    assert service["ExecReload"] == "kill -HUP $MAINPID"
