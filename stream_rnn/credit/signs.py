"""Fair signs, drawn ahead in blocks because a draw costs as much as a small tick.

Whoever takes them sees exactly what drawing them one by one would give, and `state` is the state
the generator would then have: blocks are not visible, in a checkpoint neither.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor

AT_ONCE = 2048
"""Signs drawn at once, on a processor."""


class SignStream:
    """The signs of one generator, shared by all the rules that were given it."""

    _of: ClassVar[weakref.WeakKeyDictionary[torch.Generator, SignStream]] = (
        weakref.WeakKeyDictionary()
    )

    def __init__(self, generator: torch.Generator) -> None:
        # weak: the table of streams must not keep its own keys alive
        self._generator_of = weakref.ref(generator)
        self._forget()

    @classmethod
    def of(cls, generator: torch.Generator) -> SignStream:
        """The one stream of that generator."""
        stream = cls._of.get(generator)
        if stream is None:
            stream = cls._of[generator] = cls(generator)
        return stream

    def __reduce__(self) -> tuple[Callable[..., SignStream], tuple[torch.Generator, Tensor]]:
        # a copy draws the same signs from its own generator
        return SignStream._resumed, (self._generator, self.state())

    @classmethod
    def _resumed(cls, generator: torch.Generator, state: Tensor) -> SignStream:
        stream = cls.of(generator)
        stream.restore(state)
        return stream

    def take(self, shape: tuple[int, ...]) -> Tensor:
        """Independent fair signs (-1 or +1, float32) of that shape."""
        n = math.prod(shape)
        if self._taken + n > len(self._block):
            self._draw(n)
        start = self._taken
        self._taken += n
        return self._block[start : self._taken].view(shape)

    def take_address(self, n: int) -> int:
        """Where the next n signs are, for the native library; valid until the next are taken."""
        if self._taken + n > len(self._block):
            self._draw(n)
        start = self._taken
        self._taken += n
        return self._address + 4 * start

    def give_back(self, n: int) -> None:
        """The last n of those just taken: they will be the next ones."""
        assert n <= self._taken, "nobody else may have taken any since"
        self._taken -= n

    def state(self) -> Tensor:
        """The state of a generator that drew what was taken, and nothing ahead."""
        if self._before is None:
            return self._generator.get_state()
        generator = torch.Generator()
        generator.set_state(self._before)
        if self._taken:
            torch.randint(0, 2, (self._taken,), generator=generator)
        return generator.get_state()

    def restore(self, state: Tensor) -> None:
        """Go on from a state; what was drawn ahead is forgotten."""
        self._generator.set_state(state)
        self._forget()

    @property
    def _generator(self) -> torch.Generator:
        generator = self._generator_of()
        assert generator is not None, "a rule that draws signs keeps its generator"
        return generator

    def _forget(self) -> None:
        self._block = torch.empty(0)
        self._address = self._taken = 0
        self._before: Tensor | None = None  # the generator's state before the block was drawn

    def _draw(self, n: int) -> None:
        """A new block of whole multiples of n, from where the last one was taken."""
        generator = self._generator
        if self._taken < len(self._block):
            generator.set_state(self.state())
        self._before = generator.get_state()
        size = max(AT_ONCE // n, 1) * n
        bits = torch.randint(0, 2, (size,), generator=generator)
        self._block, self._taken = bits.mul_(2).sub_(1).to(torch.float32), 0
        self._address = self._block.data_ptr()
