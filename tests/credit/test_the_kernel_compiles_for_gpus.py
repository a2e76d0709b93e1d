"""NVIDIA's run-time compiler takes the kernel of OK; no GPU is needed for that, only the compiler.

`pip install nvidia-cuda-nvrtc-cu12` brings it; so does a torch for CUDA.
"""

from __future__ import annotations

import ctypes
import importlib.util
from pathlib import Path

import pytest

from stream_rnn.credit.small_matrices_on_gpu import SOURCE


@pytest.fixture(scope="module")
def nvrtc() -> ctypes.CDLL:
    for package in ("nvidia.cuda_nvrtc", "nvidia.cu13"):
        try:
            spec = importlib.util.find_spec(package)
        except ModuleNotFoundError:
            continue
        for place in (spec and spec.submodule_search_locations) or ():
            for path in sorted(Path(place).glob("lib/libnvrtc.so.*")):
                return ctypes.CDLL(str(path))
    pytest.skip("no libnvrtc: pip install nvidia-cuda-nvrtc-cu12")


def log_of(nvrtc: ctypes.CDLL, program: ctypes.c_void_p) -> str:
    size = ctypes.c_size_t()
    nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    text = ctypes.create_string_buffer(size.value)
    nvrtc.nvrtcGetProgramLog(program, text)
    return text.value.decode()


def test_it_compiles_for_every_gpu_that_the_compiler_knows(nvrtc: ctypes.CDLL) -> None:
    count = ctypes.c_int()
    assert nvrtc.nvrtcGetNumSupportedArchs(ctypes.byref(count)) == 0
    numbers = (ctypes.c_int * count.value)()
    assert nvrtc.nvrtcGetSupportedArchs(numbers) == 0
    assert 90 in list(numbers)
    for number in numbers:
        program, source = ctypes.c_void_p(), SOURCE.read_bytes()
        made = nvrtc.nvrtcCreateProgram(ctypes.byref(program), source, b"reduce.cu", 0, None, None)
        assert made == 0
        nvrtc.nvrtcAddNameExpression(program, b"reduce")
        option = ctypes.c_char_p(f"--gpu-architecture=sm_{number}".encode())
        assert nvrtc.nvrtcCompileProgram(program, 1, ctypes.byref(option)) == 0, (
            f"sm_{number}: {log_of(nvrtc, program)}"
        )
        size, name = ctypes.c_size_t(), ctypes.c_char_p()
        assert nvrtc.nvrtcGetCUBINSize(program, ctypes.byref(size)) == 0
        assert nvrtc.nvrtcGetLoweredName(program, b"reduce", ctypes.byref(name)) == 0
        assert size.value > 0
        assert name.value == b"reduce"  # as torch will look for it
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
