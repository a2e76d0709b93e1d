"""Tensors as a safetensors file, exactly as described beside it in the manifest.

Imports torch when a file is first read or encoded, not before.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from stream_rnn.checkpoint.files import CheckpointError
from stream_rnn.checkpoint.manifest import TensorInfo

if TYPE_CHECKING:
    from torch import Tensor

_DTYPES = {  # torch's name -> safetensors' name
    **{"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16", "bool": "BOOL"},
    **{"int64": "I64", "int32": "I32", "int16": "I16", "int8": "I8", "uint8": "U8"},
}


def read_tensors(path: Path, promised: dict[str, TensorInfo]) -> dict[str, Tensor]:
    """Read exactly the tensors promised, onto the CPU, each in memory of its own.

    Raises:
        CheckpointError: unreadable, or not what was promised; told before any is allocated.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            names = set(file.keys())
            for name in sorted(names ^ set(promised)):
                owner = "file" if name in names else "manifest"
                raise CheckpointError(f"{path}: tensor {name[:80]!r} is only in the {owner}")
            for name, tensor in promised.items():
                header = file.get_slice(name)
                found = header.get_dtype(), header.get_shape()
                if found != (_DTYPES.get(tensor.dtype), tensor.shape):
                    raise CheckpointError(
                        f"{path}: tensor {name[:80]!r} is {found[0]} {found[1]}, the manifest says "
                        f"{tensor.dtype} {tensor.shape}"
                    )
            # Cloned: what safetensors returns may be mapped memory of a file that gets pruned.
            tensors = {name: file.get_tensor(name).clone() for name in promised}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: not readable as safetensors: {error}") from error
    for name, tensor in tensors.items():
        if not _is_finite(tensor):  # the writer refuses them: somebody else wrote this
            raise CheckpointError(f"{path}: tensor {name[:80]!r} holds non-finite values")
    return tensors


def _is_finite(tensor: Tensor) -> bool:
    import torch

    return not tensor.is_floating_point() or bool(torch.isfinite(tensor).all())


def encode_tensors(tensors: Mapping[str, Tensor], step: int) -> tuple[bytes, dict[str, TensorInfo]]:
    """The bytes of the file and what the manifest says of it.

    Raises:
        CheckpointError: a dtype that cannot be saved, or non-finite values.
        ValueError: anything else that safetensors refuses.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save

    host_copies: dict[str, Tensor] = {}
    described: dict[str, TensorInfo] = {}
    storages: set[int] = set()
    for name, tensor in tensors.items():
        dtype = str(tensor.dtype).removeprefix("torch.")
        if dtype not in _DTYPES:
            raise CheckpointError(f"tensor {name!r}: dtype {dtype} cannot be saved")
        copy = tensor.detach().to("cpu").contiguous()
        if not _is_finite(copy):
            raise CheckpointError(
                f"tensor {name!r} of step {step} holds non-finite values; the snapshots "
                "before it are kept, start from one of them"
            )
        # Views of one storage (a flat buffer cut up) are saved each by itself.
        storage = copy.untyped_storage()
        if storage.data_ptr() in storages or storage.nbytes() != copy.nbytes:
            copy = copy.clone()
        storages.add(copy.untyped_storage().data_ptr())
        host_copies[name] = copy
        described[name] = TensorInfo(dtype, list(copy.shape))
    try:
        return save(host_copies), described
    except SafetensorError as error:
        raise ValueError(str(error)) from error
