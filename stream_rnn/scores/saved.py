"""Taking saved scores back, with a clear word when they do not fit; settings checked alike."""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta, Struct

from stream_rnn.spi import SettingError

Finite = Annotated[float, Meta(ge=-1.7e308, le=1.7e308)]  # refuses NaN and infinities in a state
Weight = Annotated[float, Meta(ge=0, le=1.7e308)]
Count = Annotated[int, Meta(ge=0, le=2**62)]

T = TypeVar("T")


def restored(state: object, kind: type[T], place: str) -> T:
    """Read `state`, as a JSON parser gives it, into `kind`; ValueError names what does not fit."""
    try:
        return msgspec.convert(state, kind, str_keys=True)
    except msgspec.ValidationError as error:
        raise ValueError(f"state of {place}: {error}; it is damaged or from another task") from None


def require_same(place: str, **pairs: tuple[object, object]) -> None:
    """Raise ValueError where a setting in the state differs from the one configured now."""
    for name, (saved, now) in pairs.items():
        if saved != now:
            raise ValueError(
                f"state of {place}: it was saved with {name} = {saved!r}, this task has {now!r}; "
                "restore the setting, or start these scores afresh"
            )


def require_at_least(place: str, minimum: int, **settings: int | None) -> None:
    """Raise SettingError for the first setting below `minimum`; `None` passes."""
    for name, value in settings.items():
        if value is not None and value < minimum:
            raise SettingError(f"{place}: {name} must be at least {minimum}, got {value}")


def plain(saved: Struct) -> dict[str, Any]:
    """A copy of `saved` as JSON-able values."""
    plain: dict[str, Any] = msgspec.to_builtins(saved, str_keys=True)
    return plain
