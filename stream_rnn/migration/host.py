"""The plain values of a migration: scales by field, memories by lane, scores, counts."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from stream_rnn.migration.plan import Plan

Table = dict[str, Any]


def migrate_host(plan: Plan, carried: list[str], fresh: list[str]) -> Table:
    """The host state of the new model; says of each part where it comes from."""
    old, new = plan.old.host, copy.deepcopy(dict(plan.new.host))
    before, after = old["engine"], new["engine"]

    def told(name: str, is_carried: bool) -> bool:
        (carried if is_carried else fresh).append(name)
        return is_carried

    after["step"], after["ordinal"] = before["step"], before["ordinal"]
    pairs = [
        [key, plan.lanes[lane]] for key, lane in before["lanes"]["lanes"] if lane in plan.lanes
    ]
    if told(f"lanes ({len(pairs)} key{'' if len(pairs) == 1 else 's'})", plan.same_key):
        after["lanes"] = {"lanes": pairs, "evictions": before["lanes"]["evictions"]}
    for name in sorted(after["task"]):
        if name == "features":
            _features(plan, before["task"][name], after["task"][name], carried, fresh)
        elif name == "scores":
            if told("scores", plan.same_tasks):
                after["task"][name] = _scores(plan, before["task"][name])
        elif name == "scales":
            if told("scales of the targets", plan.same_targets and _same_scaling(plan)):
                by_lane = _features_of(plan.new).get("scaling") == "lane"
                scales = before["task"][name]
                after["task"][name] = _by_lane(plan, scales) if by_lane else dict(scales)
        elif name == "symbols":
            is_carried = (
                plan.same_targets and len(before["task"][name]) <= len(plan.new.outputs) + 1
            )
            if told("classes", is_carried):
                after["task"][name] = list(before["task"][name])
        elif told(f"{name} of the lanes", plan.same_targets and name in before["task"]):
            after["task"][name] = _by_lane(plan, before["task"][name])
    if told("predictions not yet due", plan.same_tasks):
        after["pending"] = _by_lane(plan, before["pending"])
    if told("drift detector", plan.same_tasks):
        after["drift"] = before["drift"]
    if told("health (rung of the ladder)", plan.same_governor):
        new["governor"] = old["governor"]
    if "freeze" in old:  # a person said so, and has not taken it back
        new["freeze"] = old["freeze"]
        carried.append("freeze")
    return new


def _features(
    plan: Plan, old: Mapping[str, Any], new: Table, carried: list[str], fresh: list[str]
) -> None:
    table = _features_of(plan.new)
    by_lane = table.get("scaling") == "lane"
    fields = list(table.get("numeric", []))
    if _same_scaling(plan):
        scalers = {
            lane: {name: scale for name, scale in scales.items() if name in fields}
            for lane, scales in old["scalers"].items()
        }
        new["scalers"] = _by_lane(plan, scalers) if by_lane else scalers
    known = {name for scales in new["scalers"].values() for name in scales}
    for name in fields:
        (carried if name in known else fresh).append(f"scale of {name}")
    room = int(table.get("max_categories", 32))
    for name in new["vocabularies"]:
        if name in old["vocabularies"]:
            new["vocabularies"][name] = list(old["vocabularies"][name])[:room]
            carried.append(f"categories of {name}")
        else:
            fresh.append(f"categories of {name}")
    remembered = set(table.get("lags", {})) | set(
        fields if table.get("missing") == "previous" else ()
    )
    new["history"] = {
        lane: {name: past for name, past in fields.items() if name in remembered}
        for lane, fields in _by_lane(plan, old["history"]).items()
    }
    new["issues"] = dict(old["issues"])


def _scores(plan: Plan, saved: Mapping[str, Any]) -> Table:
    baselines = dict(saved["baselines"])
    baselines["lanes"] = _by_lane(plan, baselines["lanes"])
    return {**saved, "baselines": baselines}


def _by_lane(plan: Plan, values: Mapping[str, Any]) -> Table:
    return {str(plan.lanes[int(k)]): v for k, v in values.items() if int(k) in plan.lanes}


def _features_of(side: Any) -> Mapping[str, Any]:
    features: Mapping[str, Any] = side.model["features"]
    return features


def _same_scaling(plan: Plan) -> bool:
    ours, theirs = _features_of(plan.old), _features_of(plan.new)
    return bool(ours.get("scaling", "shared") == theirs.get("scaling", "shared"))
