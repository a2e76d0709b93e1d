"""Plain values taken back from a snapshot: each as what it must be, or ValueError names it."""

from __future__ import annotations

from collections.abc import Sequence

from stream_rnn.spi import is_finite_number

MOST = 2**62
LARGEST = 1e60  # beyond any sum of squares of values that are let in


def count(value: object, name: str, most: int = MOST) -> int:
    """A whole number in 0..most."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
        raise ValueError(
            f"state of {name}: expected a whole number in 0..{most}, got {_told(value)}"
        )
    return value


def finite(value: object, name: str, least: float = -LARGEST) -> float:
    """A number of sane size."""
    if not is_finite_number(value) or not least <= value <= LARGEST:  # type: ignore[operator]
        raise ValueError(f"state of {name}: expected a finite number, got {_told(value)}")
    return float(value)  # type: ignore[arg-type]


def row(value: object, name: str, width: int) -> list[float]:
    """`width` finite numbers."""
    return [finite(each, name) for each in items(value, name, width, width)]


def items(value: object, name: str, least: int = 0, most: int = MOST) -> Sequence[object]:
    """A list of least..most items."""
    if not isinstance(value, list | tuple) or not least <= len(value) <= most:
        expected = f"{least}" if least == most else f"{least}..{most}"
        raise ValueError(f"state of {name}: expected {expected} values, got {_told(value)}")
    return value


def texts(value: object, name: str, most: int) -> list[str]:
    """At most `most` texts, all different."""
    found = [each for each in items(value, name, 0, most) if isinstance(each, str)]
    if len(found) != len(items(value, name)) or len(set(found)) != len(found):
        raise ValueError(f"state of {name}: expected different texts, got {_told(value)}")
    return found


def _told(value: object) -> str:
    if isinstance(value, list | tuple | dict):
        return f"{type(value).__name__} of {len(value)}"
    return repr(value)[:60] if not isinstance(value, int) else f"{value.bit_length()!s} bits"
