"""The operations of torch that a tick is made of, noted once and made again on the same tensors.

What `torch.cuda.CUDAGraph` is for a GPU, on the host: none of the tick's Python runs again, and no
memory is allocated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

Call = Callable[[], object]

MOST_BYTES = 1 << 25
"""Of results that a tape keeps: beyond it a tick is left to torch, whose memory is used again."""

_BINARY = frozenset(
    f"aten::{name}" for name in ("mul", "div", "add", "sub", "eq", "ne", "lt", "le", "gt", "ge")
)


class Tape:
    """A tick on the host.

    Attributes:
        is_whole: whether all that the tick did was noted. A number that Python read, or one drawn
            at random behind its back, will not be another one when the tape is played; and no tape
            is longer than `MOST_BYTES`.
    """

    def __init__(self) -> None:
        self.is_whole = True
        self._calls: list[Call] = []
        self._constants: dict[int, int] = {}  # memory -> the call that fills it
        self._is_deaf = False
        self._bytes = 0

    def __len__(self) -> int:
        """Operations of torch, without those whose result is always the same."""
        return len(self._calls)

    def record(self, tick: Callable[[], None]) -> None:
        """Let `tick` happen, and note it."""
        with _Listener(self._hear):
            tick()
        # written once, and by nobody else
        filled = set(self._constants.values())
        self._calls = [call for i, call in enumerate(self._calls) if i not in filled]

    def play(self) -> None:
        """Let it happen once more."""
        for call in self._calls:
            call()

    def drawn(self, draw: Callable[[], Tensor]) -> Tensor:
        """What `draw` gives, of which each playing gets its own."""
        was_deaf, self._is_deaf = self._is_deaf, True
        try:
            kept = draw().clone()
        finally:
            self._is_deaf = was_deaf
        self._calls.append(lambda: kept.copy_(draw()))
        return kept

    def _hear(self, op: Any, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any) -> None:
        if self._is_deaf:
            return
        made = list(_tensors(result))
        if torch.Tag.nondeterministic_seeded in op.tags:
            self.is_whole = False
        elif op._schema.is_mutable:
            for tensor in _written(op, args, kwargs):  # what held a constant does so no longer
                self._constants.pop(_memory(tensor), None)
            self._calls.append(_in_place(op, args, kwargs))
        elif not made:
            self.is_whole = False
        else:
            self._note(op, args, kwargs, made)

    def _note(
        self, op: Any, args: Sequence[Any], kwargs: Mapping[str, Any], made: list[Tensor]
    ) -> None:
        given = {_memory(tensor) for tensor in _tensors([*args, *kwargs.values()])}
        if all(_memory(tensor) in given for tensor in made):
            return  # other views of the same memory
        self._bytes += sum(tensor.untyped_storage().nbytes() for tensor in made)
        if self._bytes > MOST_BYTES:
            self.is_whole, self._is_deaf = False, True
            self._calls.clear()
            self._constants.clear()
            return
        is_constant = op._schema.name in _FILLS or given <= self._constants.keys()
        if is_constant and len(made) == 1:
            self._constants[_memory(made[0])] = len(self._calls)
            self._calls.append(partial(made[0].copy_, made[0].clone()))
        else:
            self._calls.append(_again(op, args, kwargs, made))


_FILLS = frozenset(
    f"aten::{name}"
    for name in ("zeros_like", "ones_like", "full_like", "new_zeros", "new_ones", "new_full")
)


class _Listener(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Tells of every operation once it was made."""

    def __init__(self, hear: Callable[..., None]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._hear = hear

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing is compiled here, and importing the compiler takes a second

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        self._hear(func, args, kwargs, result)
        return result


def _in_place(op: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Call:
    """The same once more, of an operation that writes into what it is given."""
    name = op._schema.name.removeprefix("aten::")
    if name.endswith("_") and isinstance(args[0], Tensor) and hasattr(Tensor, name):
        return partial(getattr(args[0], name), *args[1:], **kwargs)
    return partial(_shortest(op) or op._op, *args, **kwargs)


def _again(op: Any, args: Sequence[Any], kwargs: Mapping[str, Any], made: list[Tensor]) -> Call:
    """The same once more, its results where they were."""
    name = op._schema.name
    if name == "aten::_to_copy" and kwargs.keys() <= {"dtype", "device"}:
        return partial(made[0].copy_, args[0])
    if name == "aten::rsub" and not isinstance(args[1], Tensor):  # has no `out`
        left = made[0].new_tensor(args[1])
        return partial(torch.sub, left, args[0], out=made[0], **_alpha(args, kwargs))
    if name in _BINARY and not isinstance(args[1], Tensor) and args[0].is_floating_point():
        args = [args[0], args[0].new_tensor(args[1])]  # a number would be made a tensor each time
    short = _shortest(op)
    if short is not None and len(made) == 1:
        call = partial(short, *args, **kwargs, out=made[0])
        if _gives_the_same(call, made[0]):
            return call
    found = _into(op)
    if found is not None:
        into, names = found
        return partial(into, *args, **kwargs, **dict(zip(names, made, strict=True)))
    return partial(_copied, op, args, kwargs, made)


def _alpha(args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    return {"alpha": args[2]} if len(args) > 2 else dict(kwargs)


def _shortest(op: Any) -> Callable[..., Any] | None:
    """What torch itself calls it, which leads to the same kernel by a shorter way."""
    name = op._schema.name.removeprefix("aten::")
    found: Callable[..., Any] | None = getattr(torch, name, None)
    if found is None and name.startswith("linalg_"):
        found = getattr(torch.linalg, name.removeprefix("linalg_"), None)
    return found


def _gives_the_same(call: Call, made: Tensor) -> bool:
    """Whether the call, made once more, gives what is there."""
    before = made.clone()
    try:
        call()
    except (TypeError, RuntimeError):  # it has no `out`, or other arguments
        made.copy_(before)
        return False
    same = torch.equal(made.nan_to_num(0.5), before.nan_to_num(0.5))
    made.copy_(before)
    return same


def _copied(
    op: Any, args: Sequence[Any], kwargs: Mapping[str, Any], made: Sequence[Tensor]
) -> None:
    for old, new in zip(made, _tensors(op(*args, **kwargs)), strict=True):
        old.copy_(new)


@cache
def _into(op: Any) -> tuple[Any, tuple[str, ...]] | None:
    """The overload that writes into given tensors, and what it calls them; None: there is none."""
    wanted = [(a.name, str(a.type)) for a in op._schema.arguments]
    packet = op.overloadpacket
    for name in packet.overloads():
        overload = getattr(packet, name)
        arguments = overload._schema.arguments
        results = tuple(a.name for a in arguments if a.is_out)
        rest = [(a.name, str(a.type)) for a in arguments if not a.is_out]
        if results and rest == wanted and len(results) == len(op._schema.returns):
            return overload._op, results
    return None


def _written(op: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Iterator[Tensor]:
    for i, argument in enumerate(op._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            yield from _tensors(args[i] if i < len(args) else kwargs.get(argument.name))


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _tensors(values: Any) -> Iterator[Tensor]:
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, list | tuple):
        for value in values:
            yield from _tensors(value)
