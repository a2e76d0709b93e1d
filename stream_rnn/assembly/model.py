"""The learner and what belongs to it, assembled from `[learner]` and a task."""

# Abstract base classes are handed over to be compared with, never to be called:
# mypy: disable-error-code="type-abstract"

from __future__ import annotations

import inspect
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from stream_rnn import __version__, config, head
from stream_rnn.assembly import network
from stream_rnn.assembly.choices import EXACT, choose, spelled, written_out
from stream_rnn.assembly.memory import require_room
from stream_rnn.assembly.settings import LearnerTable
from stream_rnn.config import ConfigError
from stream_rnn.credit import Fallback
from stream_rnn.credit.fidelity import Fidelity
from stream_rnn.health import Governor
from stream_rnn.ladder import Ladder
from stream_rnn.learner import Learner
from stream_rnn.least_squares import LeastSquaresHead
from stream_rnn.tasks import Objective, Task
from stream_rnn.update import UPDATES, Sgd, Update


@dataclass(frozen=True)
class Model:
    """The learner, ready for its first event.

    Attributes:
        learner: on `device`.
        ladder: what teaches it, rung by rung; the one in use has a name, e.g. `ok(rank=3)`.
        governor: decides on the ladder.
        chosen: the tables in effect; part of the model's fingerprint.
        why: the reasons for what was chosen, one line each.
        execution: what computes it: versions, device, threads.
        device: where its tensors are.
    """

    learner: Learner
    ladder: Ladder
    governor: Governor
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
    except (RuntimeError, MemoryError, OverflowError, TypeError) as error:  # no room for tensors
        first = str(error).partition("\n")[0]
        raise ConfigError(
            f"[learner] the model cannot be built: {first}; use fewer units, lanes or a shorter "
            "horizon"
        ) from error


def _assembled(plan: LearnerTable, kind: str | None, task: Task, n_lanes: int, seed: int) -> Model:
    device = _device(plan.device)
    dtype = torch.float64 if plan.dtype == "float64" else torch.float32
    torch.set_num_threads(plan.threads)
    chosen, why = choose(plan, device.type, kind, n_inputs=task.inputs, n_lanes=n_lanes)
    weights = torch.Generator().manual_seed(seed)
    signs = torch.Generator(device=device).manual_seed(seed + 1)

    rules = [rung for rung in chosen["fallback"] if not isinstance(rung, str)]
    below = [rung for rung in chosen["fallback"] if isinstance(rung, str)]
    is_exact = chosen["credit"] is EXACT
    fidelity = None if plan.fidelity is False else {} if plan.fidelity is True else plan.fidelity
    if fidelity is not None:
        config.build("[learner] fidelity", fidelity, Fidelity)  # sound, even if nobody needs it
    loss = loss_of(task.objective)
    require_room(
        network.layers_of(chosen["cell"]),
        [] if is_exact else [chosen["credit"], *rules],
        n_inputs=task.inputs,
        n_outputs=loss.n_outputs,
        n_lanes=n_lanes,
        horizon=task.horizon,
        dtype=dtype,
        device=device,
    )
    net = network.build(
        chosen["cell"],
        [] if is_exact else [chosen["credit"], *rules],
        fidelity,
        has_ladder=bool(chosen["fallback"]),
        n_inputs=task.inputs,
        n_lanes=n_lanes,
        generators=network.Generators(weights, signs),
        dtype=dtype,
        device=device,
    )
    width = net.recurrence.width
    V_PF = head.initial_readout(width, task.inputs, loss, weights, task.persist())
    update = _update("[learner] optimizer", chosen["optimizer"])
    readout, head_update = _readout(
        chosen["head_optimizer"], width, task.inputs, loss, V_PF.to(device, dtype)
    )
    learner = Learner(net.recurrence, readout, update, head_update, task.horizon)
    names = [spelled(table) for table in (chosen["credit"], *rules)]
    ladder = _ladder(learner, net.ladders, names, below)
    governor = config.build(
        "[learner] governor", plan.governor, Governor, levels=ladder.levels, noisy=ladder.noisy
    )
    return Model(
        learner=learner,
        ladder=ladder,
        governor=governor,
        chosen=written_out(chosen) | {"governor": plan.governor, "seed": seed, "dtype": plan.dtype},
        why=why,
        execution={
            "stream_rnn": __version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
            "device": _named(device),
            "threads": str(plan.threads),
            "path": learner.execution()[0],
        },
        device=device,
    )


def _named(device: torch.device) -> str:
    """The device; of a GPU its model too, for results are the same to the bit on the same one."""
    if device.type != "cuda":
        return str(device)
    return f"{device} {torch.cuda.get_device_name(device)}"


def _ladder(
    learner: Learner, fallbacks: list[Fallback], names: list[str], below: list[str]
) -> Ladder:
    try:
        return Ladder(learner, fallbacks, names, below)
    except ValueError as error:
        raise ConfigError(f"[learner] fallback: {error}") from error


def _update(place: str, table: Mapping[str, Any]) -> Update:
    """An update by its name; one that wraps another has that one in its `inner` table."""
    takes = inspect.signature(network.class_of(place, table, UPDATES, Update)).parameters
    if "inner" not in table or "inner" not in takes:
        return network.named(place, table, UPDATES, Update)
    inner = config.convert(f"{place} inner", table["inner"], dict[str, Any])
    if "inner" in inner:
        raise ConfigError(f"{place} inner: an update around another one cannot be wrapped itself")
    rest = {name: value for name, value in table.items() if name != "inner"}
    return network.named(place, rest, UPDATES, Update, inner=_update(f"{place} inner", inner))


def _readout(
    table: Mapping[str, Any], n_units: int, n_inputs: int, loss: head.Loss, V_PF: torch.Tensor
) -> tuple[head.Head, Update]:
    """A read-out that learns by gradients, or one that owns its update ("rls")."""
    place = "[learner] head_optimizer"
    if table.get("kind") == "rls":
        given = {"n_units": n_units, "n_inputs": n_inputs, "loss": loss, "V_PF": V_PF}
        return config.build(place, table, LeastSquaresHead, **given), Sgd()
    return head.Head(n_units, n_inputs, loss, V_PF), _update(place, table)


def loss_of(objective: Objective) -> head.Loss:
    """The loss of the read-out; raises ConfigError."""
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
        torch.zeros(1, device=device).tolist()  # "meta" holds no numbers
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        first = str(error).splitlines()[0]
        raise ConfigError(
            f"[learner] device = {name!r} cannot be used: {first}; leave it out, and what "
            "is there is used"
        ) from None
    return device
