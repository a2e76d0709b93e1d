"""`conftest.py` of the repository: one red test stays one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
TWO_TESTS = """
import gc, socket, subprocess, sys
from pathlib import Path

def test_one_that_fails():
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    opened = socket.socket()
    Path("pid").write_text(str(process.pid))
    raise ValueError("on purpose")

def test_another_one():
    gc.collect()
"""


def test_what_a_failing_test_leaves_is_ended_and_charged_to_nobody_else(tmp_path: Path) -> None:
    (tmp_path / "test_two.py").write_text(TWO_TESTS)
    (tmp_path / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "conftest", "-p", "no:cacheprovider"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "1 failed, 1 passed" in done.stdout, done.stdout + done.stderr
    assert not Path(f"/proc/{(tmp_path / 'pid').read_text()}").exists()
