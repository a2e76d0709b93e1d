"""Scripted doubles and conformance checks for those who write plug-ins, and for our own tests.

The checks are plain functions of assertions, for use in any test framework:

    def test_my_source_conforms(tmp_path):
        check_source(lambda: MySource(...), expected=[b"first", b"second"])
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stream_rnn.testing.scripted import ScriptedSource
from stream_rnn.testing.sinks import ListSink, check_sink
from stream_rnn.testing.sources import check_source

if TYPE_CHECKING:
    from stream_rnn.testing.cells import check_cell
    from stream_rnn.testing.credit import check_credit

__all__ = ["ListSink", "ScriptedSource", "check_cell", "check_credit", "check_sink", "check_source"]


def __getattr__(name: str) -> Any:
    # A connector's tests need no torch: what checks tensors is imported when it is asked for.
    if name == "check_cell":
        from stream_rnn.testing.cells import check_cell

        return check_cell
    if name == "check_credit":
        from stream_rnn.testing.credit import check_credit

        return check_credit
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
