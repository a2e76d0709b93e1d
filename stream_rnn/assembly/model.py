"""The learner and what belongs to it, assembled from `[learner]` and a task."""

# Abstract base classes are handed over to be compared with, never to be called:
# mypy: disable-error-code="type-abstract"

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from stream_rnn import __version__, config, head
from stream_rnn.assembly.choices import choose, spelled
from stream_rnn.assembly.settings import LearnerTable
from stream_rnn.cells import CELLS, Cell
from stream_rnn.config import ConfigError
from stream_rnn.credit import RULES, Credit, Fallback
from stream_rnn.health import Governor
from stream_rnn.learner import Learner
from stream_rnn.least_squares import LeastSquaresHead
from stream_rnn.recurrence import Dense
from stream_rnn.tasks import Objective, Task
from stream_rnn.update import UPDATES, Sgd, Update

T = TypeVar("T")


@dataclass(frozen=True)
class Model:
    """The learner, ready for its first event.

    Attributes:
        learner: on `device`.
        fallback: the credit rule in it, if that is a ladder of several.
        governor: decides on the ladder.
        rule: names the credit rule in use, e.g. `ok(rank=3)`.
        chosen: the tables in effect; part of the model's fingerprint.
        why: the reasons for what was chosen, one line each.
        execution: what computes it: versions, device, threads.
        device: where its tensors are.
    """

    learner: Learner
    fallback: Fallback | None
    governor: Governor
    rule: Callable[[], str]
    chosen: dict[str, Any]
    why: list[str]
    execution: dict[str, str]
    device: torch.device

    @property
    def n_parameters(self) -> int:
        """What is learned, in numbers."""
        return sum(p.numel() for p in self.learner.parameters())


def assemble(
    plan: LearnerTable, kind: str | None, task: Task, n_lanes: int, seed: int | None
) -> Model:
    """Build the model; `seed` goes before the plan's, where given. Raises ConfigError."""
    try:
        return _assembled(plan, kind, task, n_lanes, plan.seed if seed is None else seed)
    except (RuntimeError, MemoryError, OverflowError) as error:  # torch: no room for the tensors
        first = str(error).partition("\n")[0]
        raise ConfigError(
            f"[learner] the model cannot be built: {first}; use fewer units, lanes or a shorter "
            "horizon"
        ) from error


def _assembled(plan: LearnerTable, kind: str | None, task: Task, n_lanes: int, seed: int) -> Model:
    device = _device(plan.device)
    dtype = torch.float64 if plan.dtype == "float64" else torch.float32
    torch.set_num_threads(plan.threads)
    chosen, why = choose(plan, device.type, kind)
    weights = torch.Generator().manual_seed(seed)
    signs = torch.Generator(device=device).manual_seed(seed + 1)

    cell_table = {"n_units" if k == "units" else k: v for k, v in chosen["cell"].items()}
    cell = _named("[learner] cell", cell_table, CELLS, Cell, n_inputs=task.inputs)
    rungs = [
        _named(place, table, RULES, Credit, cell=cell, n_lanes=n_lanes, generator=signs)
        for place, table in [
            ("[learner] credit", chosen["credit"]),
            *(("[learner] fallback", table) for table in chosen["fallback"]),
        ]
    ]
    fallback = Fallback(rungs) if len(rungs) > 1 else None
    names = [spelled(table) for table in (chosen["credit"], *chosen["fallback"])]
    governor = config.build("[learner] governor", plan.governor, Governor, levels=len(rungs))

    loss = _loss(task.objective)
    W_ZM = cell.initial_weight(weights).to(device, dtype)
    V_PF = head.initial_readout(cell.n_units, task.inputs, loss, weights, task.persist())
    update = _named("[learner] optimizer", chosen["optimizer"], UPDATES, Update)
    readout, head_update = _readout(
        chosen["head_optimizer"], cell.n_units, task.inputs, loss, V_PF.to(device, dtype)
    )
    recurrence = Dense(cell, fallback or rungs[0], W_ZM)
    learner = Learner(recurrence, readout, update, head_update, task.horizon)
    return Model(
        learner=learner,
        fallback=fallback,
        governor=governor,
        rule=lambda: names[fallback.level if fallback else 0],
        chosen=chosen | {"governor": plan.governor, "seed": seed, "dtype": plan.dtype},
        why=why,
        execution={
            "stream_rnn": __version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
            "device": str(device),
            "threads": str(plan.threads),
            "path": learner.execution()[0],
        },
        device=device,
    )


def _named(
    place: str, table: Mapping[str, Any], names: Mapping[str, type[T]], base: type[T], **given: Any
) -> T:
    """A cell, a rule or an update: one of ours by name, or "module:Class"."""
    kind = table.get("kind")
    if kind is None:
        raise ConfigError(f"{place}: kind is missing (known: {', '.join(names)})")
    if isinstance(kind, str) and ":" in kind:
        target = config.resolve(place, kind, base, None)
    elif isinstance(kind, str) and kind in names:
        target = names[kind]
    else:
        raise ConfigError(f"{place}: unknown kind {kind!r} (known: {', '.join(names)})")
    return config.build(place, table, target, **given)


def _readout(
    table: Mapping[str, Any], n_units: int, n_inputs: int, loss: head.Loss, V_PF: torch.Tensor
) -> tuple[head.Head, Update]:
    """A read-out that learns by gradients, or one that owns its update ("rls")."""
    place = "[learner] head_optimizer"
    if table.get("kind") == "rls":
        given = {"n_units": n_units, "n_inputs": n_inputs, "loss": loss, "V_PF": V_PF}
        return config.build(place, table, LeastSquaresHead, **given), Sgd()
    return head.Head(n_units, n_inputs, loss, V_PF), _named(place, table, UPDATES, Update)


def _loss(objective: Objective) -> head.Loss:
    try:
        return _unchecked_loss(objective)
    except ValueError as error:
        raise ConfigError(f"[task] {error}") from error


def _unchecked_loss(objective: Objective) -> head.Loss:
    match objective.kind:
        case "squared":
            return head.SquaredError(objective.size)
        case "quantile":
            return head.Quantile(objective.size, objective.tau)
        case "gaussian":
            return head.Gaussian(objective.size)
        case "cross_entropy":
            return head.CrossEntropy(objective.size)
        case "bernoulli":
            return head.Bernoulli(objective.size)
    raise AssertionError(objective.kind)


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        first = str(error).splitlines()[0]
        raise ConfigError(f"[learner] device = {name!r} cannot be used: {first}") from None
    return device
