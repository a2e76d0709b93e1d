"""A test seam: `STREAM_RNN_FAULT=stage:n` kills this process where it matters.

`SAVING` are the stages of saving a snapshot, `STAGES` those and the middle of a tick, `LOOP_STAGES`
the places between them, `JOURNAL_STAGES` those of writing an event down.
"""

from __future__ import annotations

import os
import signal

SAVING = (
    "after_clone",
    "before_write",
    "after_tensors",
    "before_manifest",
    "before_rename",
    "after_rename",
    "before_ack",
)
STAGES = (*SAVING, "in_tick")
LOOP_STAGES = (
    "after_poll",
    "after_write",
    "in_clone",
    "after_ack",
)
JOURNAL_STAGES = (
    "journal_append",
    "journal_before_fsync",
    "journal_after_fsync",
    "journal_after_ack",
    "journal_rotate",
)


def _armed(setting: str) -> dict[str, int]:
    if not setting:
        return {}
    stage, _, passage = setting.partition(":")
    known = (*STAGES, *LOOP_STAGES, *JOURNAL_STAGES)
    if stage not in known or not (passage or "1").isdigit():
        raise ValueError(f"STREAM_RNN_FAULT: expected STAGE:N with one of {known}, got {setting!r}")
    return {stage: int(passage or "1")}


_faults = _armed(os.environ.get("STREAM_RNN_FAULT", ""))


def arm(setting: str) -> None:
    """Set it for this process, which imported this before it was forked."""
    _faults.update(_armed(setting))


def fault(stage: str, passages: int = 1) -> None:
    """Test seam: `STREAM_RNN_FAULT=stage:n` kills -9 this process at the n-th passage of a stage.

    Without the variable at import it is one dict lookup.
    """
    if stage in _faults:
        left = _faults[stage]
        _faults[stage] -= passages
        if 0 < left <= passages:
            os.kill(os.getpid(), signal.SIGKILL)
