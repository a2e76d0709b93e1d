"""What every credit rule is: observe one tick after another, give the gradient of each.

Axes: B lanes, N units, S state, Z = G*N, M = I+N+1.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import get_args

import torch
from torch import Tensor
from typing_extensions import override

from stream_rnn.cells.base import Cell
from stream_rnn.credit.signs import SignStream
from stream_rnn.lane_state import reset_lanes, rows
from stream_rnn.linearization import Linearization, Products
from stream_rnn.native.observe import Observed, Observer, Shape, observer_for

Signs = Callable[[tuple[int, ...]], Tensor]
"""Draws a tensor of independent fair signs (-1 or +1) of the given shape."""

MANY = 1 << 30
"""Ticks: more than any block has."""
SIGNS_AHEAD = 1 << 16
"""Signs that several ticks are given at once, at most."""
EXPLODED = 1e8
"""An influence of a larger norm is unhealthy: no sound net of practical size comes near it."""


class Credit(ABC):
    """Turns `(linearization, dL/ds)` of each tick into dL/dW.

    All per-lane tensors live in `lane_state` (leading axis B), zero at the start and after a reset,
    so that reset, idle lanes, rejection and checkpoints are written once over it. They take the
    dtype and device of the first linearization observed.

    Bad credit (docs/algorithms.md 11.2): a lane whose influence or gradient comes out non-finite or
    larger than `EXPLODED` contributes nothing to this tick's gradient, its lane state restarts at
    zero, and `healthy()` says so. The event itself is innocent.
    """

    lane_state: dict[str, Tensor]
    switches: int = 0
    """How often the rule in use became another one since this was built: a ladder's moves."""

    def __init__(self, cell: Cell, n_lanes: int) -> None:
        if n_lanes < 1:
            raise ValueError(f"n_lanes must be at least 1, got {n_lanes}")
        self.cell = cell
        self.n_lanes = n_lanes
        self.lane_state = {}
        self._healthy_B: Tensor = torch.ones(n_lanes, dtype=torch.bool)
        self._gradient_ZM: Tensor | None = None
        self._facts: dict[str, Tensor] = {}

    @abstractmethod
    def observe(self, lin: Linearization, q_BS: Tensor, live_B: Tensor) -> None:
        """Take one tick.

        Args:
            lin: linearization of this tick's cell step.
            q_BS: dL_t/ds_t; zero rows for lanes without a target.
            live_B: bool; lanes that are not live keep every tensor bitwise, whatever their rows
                hold. (Paying what a locked window owes marks it as paid in every lane.)
        """

    @abstractmethod
    def gradient(self) -> Tensor | None:
        """dL_t/dW (Z, M) of the tick just observed, summed over lanes.

        The head scales q so that the sum is the gradient of the mean loss. None = update-locked:
        the parameters must wait (only windows with `every > 1`).
        """

    def flush(self) -> Tensor | None:
        """Gradient of the losses observed but not yet paid; None if nothing is owed."""
        return None

    def settle(self, updated: Tensor) -> None:
        """Told whether the update by the newest `gradient()` was made (bool, on the device).

        For rules that hand in late what they owed: refused, it is still owed. Without this call an
        update counts as made.
        """

    def healthy(self) -> Tensor:
        """(B,) bool on the device: False where this tick's influence or gradient was unsound."""
        return self._healthy_B

    def report(self) -> dict[str, Tensor]:
        """Scalars of the last tick, on the device, for metrics; empty before the first.

        A state that is loaded has no last tick. Lanes that were not live count as 0.

        Read by schedule; names from a closed set.
        """
        return {name: fact_B.amax() for name, fact_B in self._facts.items()}

    def adopt(
        self, gradient_ZM: Tensor | None, healthy_B: Tensor, facts: dict[str, Tensor], n: int = 1
    ) -> None:
        """`n` fused ticks observed in this rule's place, on its lane state: what the last gave."""
        self._gradient_ZM, self._healthy_B, self._facts = gradient_ZM, healthy_B, facts

    def reset(self, lanes_B: Tensor) -> None:
        """Forget everything about the lanes marked in `lanes_B` (bool)."""
        reset_lanes(self.lane_state, lanes_B)

    def state_dict(self) -> dict[str, Tensor]:
        """Everything that influences the future, by flat names."""
        return dict(self.lane_state)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take what `state_dict` gave; raises ValueError naming what is missing or misshapen."""
        for name, mine in self.lane_state.items():
            if name not in state:
                raise ValueError(f"credit state {name!r} is missing")
            if state[name].shape != mine.shape:
                raise ValueError(
                    f"credit state {name!r}: expected {tuple(mine.shape)}, "
                    f"got {tuple(state[name].shape)}"
                )
            # the native library reads memory as what it should be
            dtypes = (torch.float32, torch.float64) if mine.is_floating_point() else (mine.dtype,)
            if state[name].dtype not in dtypes:
                raise ValueError(
                    f"credit state {name!r}: expected {mine.dtype}, got {state[name].dtype}"
                )
        for name, mine in self.lane_state.items():
            self.lane_state[name] = state[name].detach().to(mine.device, copy=True)
        self._facts = {}

    # For the rules --------------------------------------------------------------------------------

    def _like(self, tensor: Tensor) -> None:
        """Give the lane state the dtype and device of `tensor` (once, before the first tick)."""
        for name, state in self.lane_state.items():
            dtype = tensor.dtype if state.is_floating_point() else state.dtype
            if state.dtype != dtype or state.device != tensor.device:
                self.lane_state[name] = state.to(tensor.device, dtype)

    def _commit(self, name: str, new: Tensor, live_B: Tensor, sound_B: Tensor) -> None:
        """Store `new` where live and sound, zero where live and unsound, else leave it."""
        new = torch.where(rows(sound_B, new), new, 0)
        self._store(name, new, live_B)

    def _store(self, name: str, new: Tensor, live_B: Tensor) -> None:
        """Store `new` where live, else leave it."""
        old = self.lane_state[name]
        torch.where(rows(live_B, old), new.view(old.shape), old, out=old)


class Noisy(Credit):
    """A rule that draws signs and has a gradient at every tick; `observe` keeps it up to date.

    Args:
        cell: the cell whose steps will be observed.
        n_lanes: B.
        generator: where the signs come from; its state is part of the rule's.
        signs: the seam of the tests: replaces the generator.

    Attributes:
        signs_shape: of the signs of one tick; set by the rule.
        native_shape: what the rule says to the native library; set by a rule that it knows.
    """

    signs_shape: tuple[int, ...]
    native_shape: Shape

    def __init__(
        self,
        cell: Cell,
        n_lanes: int,
        generator: torch.Generator | None,
        signs: Signs | None,
    ) -> None:
        super().__init__(cell, n_lanes)
        if generator is None and signs is None:
            raise ValueError("a noisy credit rule needs a generator (or its own signs)")
        self._generator = generator
        # on a GPU a draw is keyed by a counter, and may be part of a captured graph
        drawn_ahead = generator is not None and generator.device.type == "cpu"
        self._stream = SignStream.of(generator) if generator and drawn_ahead else None
        self._signs: Signs = signs or self._drawn
        self._draws = signs is None
        self._gradient_ZM = torch.zeros(cell.weight_shape)
        self._observer: Observer | None = None

    def __getstate__(self) -> dict[str, object]:
        # for copies; the observer knows where this rule's tensors are
        return self.__dict__ | {"_observer": None}

    @override
    def gradient(self) -> Tensor:
        assert self._gradient_ZM is not None
        return self._gradient_ZM

    def _natively(self, lin: Linearization, q_BS: Tensor, live_B: Tensor) -> Observed | None:
        """Let the native library take this tick; None: it does not."""
        self._observer = observer_for(self.native_shape, q_BS, self._observer)
        if self._observer is None:
            return None
        step = (lin.drive_BKGN, lin.carry_BKKN, lin.u_BM)
        drawn = self.draw_signs()
        observed = self._observer.observe(self.lane_state, lin.W_h_ZN, step, q_BS, live_B, drawn)
        self._gradient_ZM, self._healthy_B = observed.gradient_ZM, observed.healthy_B
        return observed

    @override
    def state_dict(self) -> dict[str, Tensor]:
        if self._generator is None:
            return super().state_dict()
        if self._stream is not None:
            return super().state_dict() | {"generator": self._stream.state()}
        return super().state_dict() | {"generator": self._generator.get_state()}

    @override
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        super().load_state_dict(state)
        self._observer = None  # it holds facts of the lanes' last ticks
        if self._generator is not None:
            if "generator" not in state:
                raise ValueError("credit state 'generator' is missing")
            if self._stream is not None:
                self._stream.restore(state["generator"].cpu())
            else:
                self._generator.set_state(state["generator"].cpu())

    @property
    def draws(self) -> bool:
        """Whether the signs come from its generator."""
        return self._draws

    @property
    def generator(self) -> torch.Generator:
        """Where the signs come from; only where it `draws`."""
        assert self._generator is not None
        return self._generator

    @contextmanager
    def signs_through(self, seam: Callable[[Callable[[], Tensor]], Tensor]) -> Iterator[None]:
        """Meanwhile each tick's signs are what `seam` gives, told how they would be drawn."""
        signs = self._signs
        self._signs = lambda shape: seam(lambda: signs(shape))
        try:
            yield
        finally:
            self._signs = signs

    def draw_signs(self) -> Tensor:
        """The signs of the next tick, in the shape that `signs_shape` says."""
        signs = self._signs(self.signs_shape)
        if signs.shape != self.signs_shape:
            raise ValueError(f"signs: expected {self.signs_shape}, got {tuple(signs.shape)}")
        return signs

    @property
    def signs_per_tick(self) -> int:
        """How many signs `draw_signs` draws."""
        return math.prod(self.signs_shape)

    def calm_ticks(self) -> int:
        """How many ticks' signs may be drawn at once: 1 where they are not a stream's."""
        if self._stream is None or not self._draws:
            return 1
        return max(SIGNS_AHEAD // self.signs_per_tick, 1)

    def sign_address(self, n: int = 1) -> int:
        """Where the signs of the next n ticks are, as float32; valid until the next are drawn.

        At most `calm_ticks()`; `give_back` what was not used before anybody else draws.
        """
        if self._stream is not None and self._draws:
            return self._stream.take_address(n * self.signs_per_tick)
        self._last_signs = self.draw_signs().to(torch.float32).contiguous()
        return self._last_signs.data_ptr()

    def give_back(self, n: int) -> None:
        """The last n ticks that `sign_address` drew for did not happen."""
        assert self._stream is not None, "one tick at a time happens"
        self._stream.give_back(n * self.signs_per_tick)

    def _drawn(self, shape: tuple[int, ...]) -> Tensor:
        if self._stream is not None:
            return self._stream.take(shape)
        generator = self._generator
        assert generator is not None
        bits = torch.randint(0, 2, shape, generator=generator, device=generator.device)
        return bits.mul_(2).sub_(1)


def known_products(kind: Products) -> Products:
    """The same, once it is known to be one."""
    if kind not in get_args(Products):
        raise ValueError(f'products must be "float32" or "tf32", got {kind!r}')
    return kind


def norms(tensor: Tensor) -> Tensor:
    """Euclidean norm of each lane, (B,)."""
    norm_B: Tensor = torch.linalg.vector_norm(tensor.flatten(1), dim=1)
    return norm_B


def is_sound(norm_B: Tensor) -> Tensor:
    """(B,) bool: finite and not exploded. NaN compares false."""
    return norm_B <= EXPLODED


def outer_sum(p_BRZ: Tensor, v_BRM: Tensor, use_B: Tensor) -> Tensor:
    """The sum of all outer products p v^T (Z, M) of the lanes marked; others may hold NaN."""
    mask_B11 = use_B[:, None, None]
    p_BRZ = torch.where(mask_B11, p_BRZ, 0.0)
    v_BRM = torch.where(mask_B11, v_BRM, 0.0)
    return p_BRZ.flatten(0, 1).T @ v_BRM.flatten(0, 1)
