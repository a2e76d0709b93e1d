"""What is told in words: the model, what survives a crash, the counters, the state in the head."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from rich.text import Text

from stream_rnn.top.answer import Answer
from stream_rnn.top.ink import BAD, GOOD, INK, MUTED, OTHER, Part, row
from stream_rnn.top.words import age, amount, clean, counted, human, instant, plural

WHY = {
    "unsound": "unsound credit",
    "noise": "noisy credit",
    "slow": "slow ticks",
    "lag": "lag",
}
_NAME_CELLS = 9
_MOST_LAYERS = 8


def learning(answer: Answer) -> list[Text]:
    """The most important first: a small screen shows three."""
    series = answer.series
    skips = series.by("update_skips_total", "reason")
    skipped = [f"{human(n)} ({clean(why, 12)})" for why, n in skips.items() if n][:4]
    resets, alarms = series.total("credit_resets_total"), series.total("drift_alarms_total")
    norms = (("fidelity", series.one("fidelity")), ("gradient", series.one("gradient_norm")))
    execution = answer.table("execution")
    device, path = clean(execution.get("device"), 20), clean(execution.get("path"), 60)
    return [
        _fact("rule", *_rule(answer)),
        _fact("model", model(answer)),
        _fact(
            "health",
            _trouble(plural(resets, "credit reset"), resets),
            (f" · {plural(alarms, 'drift alarm')}", OTHER if alarms else MUTED),
        ),
        _fact(
            "updates",
            f"skipped {', '.join(skipped)}" if skipped else "none skipped",
            *((f" · {name} {human(value)}", MUTED) for name, value in norms if value is not None),
        ),
        _fact("runs on", " · ".join(filter(None, (device, path))) or "-"),
    ]


def keeping(answer: Answer, now: float) -> list[Text]:
    """The most important first."""
    promises = " · ".join(f"{name}: {level}" for name, level in answer.promises)
    if len(answer.promises) == 1:
        promises = answer.promises[0][1]
    return [
        _fact("promise", promises or answer.words("guarantee") or "-"),
        _fact("saved", *_saved(answer)),
        _fact("failures", *_failures(answer)),
        _fact("restarts", *_restarts(answer)),
        _fact("process", *_process(answer, now)),
    ]


def events(answer: Answer) -> list[Text]:
    """One item per counter; those this daemon does not have are left out."""
    series = answer.series
    rejected = series.by("events_rejected_total", "stage")
    n_rejected = sum(rejected.values()) if rejected else None
    stages = ", ".join(f"{clean(stage, 12)} {counted(n)}" for stage, n in rejected.items() if n)
    items = [_count("applied", series.total("events_applied_total"))]
    items.append(_count("rejected", n_rejected, bad=True, more=f" ({stages})" if stages else ""))
    for name, key in (
        ("dead letters", "dead_letters_total"),
        ("dropped", "duplicates_dropped_total"),
        ("shed", "shed_total"),
        ("replayed", "replayed_events_total"),
        ("predictions", "predictions_total"),
        ("scored", "scored_total"),
        ("reconnects", "reconnects_total"),
    ):
        n = series.total(key)
        if n is not None:
            items.append(_count(name, n, bad=name in ("dead letters", "shed")))
    used, capacity = series.one("lanes_used"), series.one("lanes_capacity")
    if capacity is not None and capacity > 1:
        items.append(row(("streams ", MUTED), (f"{counted(used)} of {counted(capacity)}", INK)))
    return items


def flowed(items: Iterable[Text], cells: int) -> list[Text]:
    """Items in as few lines as they fit into, three cells apart."""
    lines: list[Text] = []
    for item in items:
        if lines and lines[-1].cell_len + 3 + item.cell_len <= cells:
            lines[-1].append("   ").append_text(item)
        else:
            lines.append(item.copy())
    return lines


def model(answer: Answer) -> str:
    """The model in one line: `lstm(units=32), 4.9k parameters, adam(lr=0.001)`."""
    learner = answer.table("model").get("learner")
    learner = learner if isinstance(learner, dict) else {}
    cell = learner.get("cell")
    layers = cell if isinstance(cell, list) else [cell]
    made = " + ".join(filter(None, map(_called, layers[:_MOST_LAYERS])))
    n = answer.series.one("parameters")
    size = "" if n is None else f"{human(n)} parameters"
    return ", ".join(filter(None, (made, size, _called(learner.get("optimizer"))))) or "-"


def _called(table: object) -> str:
    """A table of a configuration as a call: its kind, and its plain numbers."""
    if not isinstance(table, Mapping):
        return ""
    numbers = [
        f"{clean(key, 12)}={human(value)}"
        for key, value in list(table.items())[:4]
        if isinstance(value, float | int) and not isinstance(value, bool) and abs(value) < 1e300
    ]
    inside = f"({', '.join(numbers)})" if numbers else ""
    return f"{clean(table.get('kind'), 24)}{inside}"


def _rule(answer: Answer) -> list[Part]:
    rule = answer.words("rule") or "-"
    frozen = answer.number("frozen_since_step")
    if frozen is not None:
        return [(rule, INK), (f" · frozen since step {counted(frozen)}: nothing is learned", OTHER)]
    level = answer.number("fallback_level")
    if not level:
        return [(rule, INK), (" · level 0, as configured", MUTED)]
    reason = answer.words("fallback_reason")
    why = f": {WHY.get(reason, reason)}" if reason else ""
    return [(rule, INK), (f" · level {counted(level)}{why}", OTHER)]


def _saved(answer: Answer) -> list[Part]:
    series = answer.series
    at, size = series.one("snapshot_age_seconds"), series.one("snapshot_bytes")
    if at is None:
        unsaved = series.one("unsaved_seconds")
        return ["nothing yet", (f" · unsaved for {age(unsaved)}", MUTED)]
    took = series.one("snapshot_seconds")
    more = f" · {amount(size)} in {instant(took)}" if size is not None else ""
    return [f"{age(at)} ago", (more, MUTED)]


def _failures(answer: Answer) -> list[Part]:
    failed, made = (answer.series.total(f"snapshot{s}_total") for s in ("_failures", "s"))
    passed = answer.series.total("snapshot_fallbacks_total")
    parts: list[Part] = [
        _trouble(counted(failed), failed),
        (f" · {plural(made, 'snapshot')} made", MUTED),
    ]
    if passed:
        parts.append((f" · {counted(passed)} damaged at the start", OTHER))
    return parts


def _restarts(answer: Answer) -> list[Part]:
    series = answer.series
    epoch, lost = series.one("epoch"), series.one("recovery_gap_events")
    gap = "lost: unknown" if lost is None else f"{plural(lost, 'event')} lost"
    start = "-" if epoch is None else f"{counted(max(epoch - 1, 0))}"
    return [start, (" · ", MUTED), (gap, BAD if lost else MUTED)]


def _process(answer: Answer, now: float) -> list[Part]:
    series = answer.series
    began, memory = series.process("start_time_seconds"), series.process("resident_memory_bytes")
    up = None if began is None or began > now else now - began
    free = series.one("state_free_bytes")
    return [f"up {age(up)}", (f" · {amount(memory)} · {amount(free)} free", MUTED)]


def _fact(name: str, *parts: Part) -> Text:
    return row((f"{name:<{_NAME_CELLS}}", MUTED), *parts)


def _trouble(words: str, n: float | None) -> tuple[str, str]:
    return (f"▲ {words}", BAD) if n else (words, GOOD if n == 0 else INK)


def _count(name: str, n: float | None, bad: bool = False, more: str = "") -> Text:
    style = OTHER if bad and n else INK
    return row((f"{name} ", MUTED), (counted(n), style), (more, style))
