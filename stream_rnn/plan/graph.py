"""A tick on a GPU, captured in a CUDA graph: one launch plays all of its kernels."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor


class Graph:
    """Records a tick whose memory stays where it is.

    Capturing runs the tick's Python once and none of its kernels, so nothing has happened before
    `record` plays it. Whoever records has run the tick before: first uses allocate what they keep.

    Args:
        device: a GPU.
        generators: what is drawn from within the tick; each playing draws anew.

    Attributes:
        is_whole: True; what could not be captured has raised.
    """

    is_whole = True

    def __init__(self, device: torch.device, generators: Iterable[torch.Generator]) -> None:
        self._device = device
        self._graph = torch.cuda.CUDAGraph()
        for generator in generators:
            self._graph.register_generator_state(generator)

    def record(self, tick: Callable[[], None]) -> None:
        """Capture `tick`, and let it happen.

        Raises:
            RuntimeError: it waits for the device, or does something else that no graph can hold.
        """
        # other threads may wait for the device meanwhile: the writer of snapshots does
        capture = torch.cuda.graph(self._graph, capture_error_mode="thread_local")
        with torch.cuda.device(self._device), capture:
            tick()
        self._graph.replay()

    def play(self) -> None:
        """Let it happen once more; does not wait for it."""
        self._graph.replay()

    def drawn(self, draw: Callable[[], Tensor]) -> Tensor:
        """What `draw` gives within the graph."""
        return draw()
