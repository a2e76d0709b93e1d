"""Compiles the library once for its sources and this kind of processor; needs g++ and nothing else.

One file holds the kernels for several instruction sets; the best one is picked when it is loaded.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from contextlib import ExitStack
from pathlib import Path

SOURCES = Path(__file__).parent / "source"
FLAGS = (
    *("-std=gnu++17", "-O3", "-fPIC", "-fno-math-errno", "-fno-trapping-math"),
    *("-fno-exceptions", "-fno-rtti", "-fvisibility=hidden", "-pthread"),
    *("-Wall", "-Wextra"),
)
# for kernels.cpp: whatever matters there is in vectors by hand, and looking for more takes time
BY_HAND = ("-fno-tree-vectorize", "-fno-gcse")
# for columns.cpp, whose numbers are those of Python's own arithmetic, bit for bit
EXACT = ("-ffp-contract=off", "-fno-builtin")
# machine -> variant -> flags, best first; VL floats fill one vector
VARIANTS: dict[str, dict[str, tuple[str, ...]]] = {
    "x86_64": {
        "avx512": (
            *("-mavx2", "-mfma", "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl"),
            *("-mprefer-vector-width=512", "-DVL=16"),
        ),
        "avx2": ("-mavx2", "-mfma", "-DVL=8"),
    },
}
PORTABLE: dict[str, tuple[str, ...]] = {"portable": ("-DVL=4",)}
TIMEOUT_S = 120.0


class BuildError(Exception):
    """The library cannot be built here; the text says why and what to do."""


def variants() -> dict[str, tuple[str, ...]]:
    """The instruction sets to compile for, best first, with their flags."""
    return VARIANTS.get(platform.machine(), PORTABLE)


def folder() -> Path:
    """Where libraries are kept: $STREAM_RNN_CACHE, else the user's cache."""
    given = os.environ.get("STREAM_RNN_CACHE")
    if given:
        return Path(given) / "native"
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "stream-rnn" / "native"


def built_path() -> Path:
    """The file of these sources, these flags and this kind of machine, built or not."""
    digest = hashlib.sha256(repr((platform.machine(), FLAGS, BY_HAND, EXACT, variants())).encode())
    for source in sorted(SOURCES.iterdir()):
        if source.suffix in (".cpp", ".hpp"):
            digest.update(source.name.encode() + b"\0" + source.read_bytes() + b"\0")
    return folder() / f"step-{digest.hexdigest()[:16]}.so"


def build() -> Path:
    """Compile, unless it was compiled before; takes a few seconds. Raises BuildError."""
    target = built_path()
    if target.is_file():
        return target
    compiler = os.environ.get("CXX") or shutil.which("g++")
    if not compiler:
        raise BuildError(
            "no g++ was found: install it (Debian: apt install g++), or name a compiler in $CXX; "
            "without the library everything works, slower"
        )
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch, ExitStack() as running:
        objects = []
        compilers = []
        for name, flags in variants().items():
            objects.append(f"{scratch}/{name}.o")
            source = str(SOURCES / "kernels.cpp")
            command = (compiler, *FLAGS, *BY_HAND, *flags, f"-DKERNELS={name}", "-c", source)
            compilers.append(running.enter_context(_start(*command, "-o", objects[-1])))
        objects.append(f"{scratch}/columns.o")
        columns = (compiler, *FLAGS, *EXACT, "-c", str(SOURCES / "columns.cpp"))
        compilers.append(running.enter_context(_start(*columns, "-o", objects[-1])))
        for process in compilers:
            _finish(process)
        listed = "-DVARIANTS(X)=" + " ".join(f"X({name})" for name in variants())
        linked = f"{scratch}/step.so"
        entry = str(SOURCES / "entry.cpp")
        link = (compiler, *FLAGS, listed, "-shared", entry, *objects, "-o", linked)
        _finish(running.enter_context(_start(*link)))
        Path(linked).chmod(0o600)
        Path(linked).replace(target)  # whoever looks meanwhile sees all of it or nothing
    return target


def _start(*command: str) -> subprocess.Popen[str]:
    try:
        return subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
    except OSError as error:
        raise BuildError(f"the compiler {command[0]!r} cannot be started: {error}") from error


def _finish(process: subprocess.Popen[str]) -> None:
    try:
        said, _ = process.communicate(timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise BuildError(f"the compiler did not finish within {TIMEOUT_S:g} s") from None
    if process.returncode:
        raise BuildError(f"the compiler failed (status {process.returncode}):\n{said.strip()}")
