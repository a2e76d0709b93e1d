"""The tensors of a migration, carried number by number along axes that have names.

A tensor's name ends in a letter for each axis (`W_ZM`); those that are inputs, outputs or lanes are
matched by what they stand for, all others must be of the same size.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

import torch
from torch import Tensor

from stream_rnn.migration.plan import Plan, layers_of, prefix

Labels = Sequence[Hashable]
PASSING = ("credit.", "fidelity.", "influence_", "owed")


def migrate_tensors(
    plan: Plan, parameters: Mapping[str, Sequence[str]], carried: list[str], fresh: list[str]
) -> dict[str, Tensor]:
    """Every tensor of the new model; says of each where it comes from."""
    found: dict[str, Tensor] = {}
    whole_or_part: set[str] = set()  # new names that got something
    for name, tensor in plan.new.tensors.items():
        part, _, rest = name.partition(".")
        if part in parameters:
            continue
        source = _source(plan, name)
        into = None
        if source is not None and source in plan.old.tensors:
            into = _into(plan, plan.old.tensors[source], tensor, name, rest.rpartition("_")[2])
        if into is not None:
            found[name], told = into
            whole_or_part.add(name)
            carried.append(f"{name}{told}")
            continue
        found[name] = tensor
        fresh.append(name)
    if plan.same_credit:
        _take_debts(plan, found, carried)
    _line_up_states(plan, found)
    for part, names in parameters.items():
        moved = [name if name in whole_or_part else None for name in names]
        _optimizer(plan, part, moved, found, carried, fresh)
    return found


def _source(plan: Plan, name: str) -> str | None:
    """The old name of a tensor that may be carried; None if its meaning is another."""
    part, _, rest = name.partition(".")
    if part == "learner":
        return name if plan.same_horizon and (rest != "owed_B" or plan.same_credit) else None
    if part == "head":  # fitted to the hidden state that it reads
        return name if plan.all_layers else None
    for before, after in plan.prefixes[: plan.layers]:
        if name.startswith(after):
            is_passing = name.removeprefix(after).startswith(PASSING)
            if is_passing and not plan.same_credit:
                return None
            return before + name.removeprefix(after)
    return None


def _into(
    plan: Plan, old: Tensor, fresh: Tensor, name: str, axes: str
) -> tuple[Tensor, str] | None:
    """`fresh` with everything of `old` that stands for the same; None: nothing does."""
    if old.dim() != fresh.dim() or old.is_floating_point() != fresh.is_floating_point():
        return None
    result, pick, put = fresh.clone(), old, []
    for axis in range(old.dim()):
        letter = axes[axis] if len(axes) == old.dim() else ""
        labels = _labels(plan, name, letter, old.shape[axis], fresh.shape[axis])
        if labels is None:
            if old.shape[axis] != fresh.shape[axis]:
                return None
            put.append(torch.arange(old.shape[axis]))
            continue
        place = {label: i for i, label in enumerate(labels[0])}
        pairs = [(place[label], i) for i, label in enumerate(labels[1]) if label in place]
        pick = pick.index_select(axis, torch.tensor([i for i, _ in pairs], dtype=torch.int64))
        put.append(torch.tensor([i for _, i in pairs], dtype=torch.int64))
        new_inputs = [
            i for i, label in enumerate(labels[1]) if label not in place and _is_input(label)
        ]
        if new_inputs and not name.startswith("head.C") and pairs:
            # the net goes on as it was: it begins to listen to a new input from zero
            result.index_fill_(axis, torch.tensor(new_inputs), 0)
    if not pick.numel():
        return None
    if not old.dim():
        return old.to(fresh, copy=True), ""
    result[torch.meshgrid(*put, indexing="ij")] = pick.to(result)
    whole = pick.numel() == fresh.numel()
    return result, "" if whole else f" ({pick.numel()} of {fresh.numel()} numbers)"


def _is_input(label: Hashable) -> bool:
    return isinstance(label, tuple) and label[0] == "input"


def _labels(plan: Plan, name: str, letter: str, n: int, m: int) -> tuple[Labels, Labels] | None:
    """What the old and the new numbers along an axis stand for; None: as many of the same."""
    ours = [("input", label) for label in plan.old.inputs]
    theirs = [("input", label) for label in plan.new.inputs]
    if letter == "B":
        back = {new: old for old, new in plan.lanes.items()}
        return range(n), [back.get(lane, ("new", lane)) for lane in range(m)]
    if name.startswith("head."):
        if letter == "P":
            return _outputs(plan.old.outputs, n), _outputs(plan.new.outputs, m)
        if letter == "F":  # [h | x | 1]
            one, other = n - len(ours) - 1, m - len(theirs) - 1
            return [*range(one), *ours, "bias"], [*range(other), *theirs, "bias"]
        return None
    is_lowest = name.startswith("learner.") or name.startswith(prefix(layers_of(plan.new), 0))
    if is_lowest and letter in ("I", "M", "U"):  # [x | what the cell itself adds]
        rest = [range(k) for k in (n - len(ours), m - len(theirs))]
        return [*ours, *rest[0]], [*theirs, *rest[1]]
    return None


def _outputs(names: Sequence[str], n: int) -> Labels:
    if len(names) != n:
        raise ValueError(f"{len(names)} outputs are named, there are {n}")
    return names


def _take_debts(plan: Plan, found: dict[str, Tensor], carried: list[str]) -> None:
    """What is only there while something is owed: a fresh model has no name for it."""
    for name, tensor in plan.old.tensors.items():
        if name not in found and ".owed" in name and name.startswith("recurrence."):
            found[name] = tensor
            carried.append(name)


def _line_up_states(plan: Plan, found: dict[str, Tensor]) -> None:
    """Another horizon: learning goes on where predicting stands, the newest event (10.1)."""
    if plan.same_horizon:
        return
    had_lag = bool(plan.old.tensors["learner.count_B"].any())
    for name in [name for name in found if name.rpartition(".")[2].startswith("s_B")]:
        ahead = name.rpartition(".")[0] + ".ahead_" + name.rpartition("_")[2]
        if ahead in found and ".credit." not in name:
            source, target = (ahead, name) if had_lag else (name, ahead)
            found[target] = found[source].clone()


def _optimizer(
    plan: Plan,
    part: str,
    moved: Sequence[str | None],
    found: dict[str, Tensor],
    carried: list[str],
    fresh: list[str],
) -> None:
    """The state of one optimizer, parameter by parameter; all of it or none."""
    key = {"update": "optimizer", "head_update": "head_optimizer"}[part]
    names = [name for name in plan.new.tensors if name.startswith(f"{part}.")]
    whole = part == "head_update" or plan.all_layers
    state: dict[str, Tensor] = {}
    for name in names if plan.same_kind(key) and whole else []:
        owner, old = name.rpartition(".")[2], plan.old.tensors.get(name)
        parameter = moved[int(owner)] if owner.isdecimal() else ""
        if old is None or parameter is None:
            break
        into = _into(plan, old, plan.new.tensors[name], parameter, parameter.rpartition("_")[2])
        if into is None:
            break
        state[name] = into[0]
    if names and len(state) == len(names):
        found |= state
        carried.append(f"{key} state")
    elif names or any(name.startswith(f"{part}.") for name in plan.old.tensors):
        fresh.append(f"{key} state")
