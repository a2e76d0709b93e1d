"""Layers on top of each other, each with credit of its own.

Axes: B lanes, I inputs, N numbers in a layer's h.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor
from typing_extensions import override

from stream_rnn.recurrence.base import Recurrence
from stream_rnn.saved import part


class Stack(Recurrence):
    """Layer l reads the new h of layer l - 1; dL/dh is passed down at the same tick.

    What is exact: the top recurrent layer's gradient is what its rule makes it (exact under `Rtrl`
    and for element-wise units), and so is that of any layer with only stateless layers
    (`Feedforward`) above it. What is truncated: a lower layer gets the blame that reaches it at the
    tick of the loss, not what travels through the upper layers' recurrent state of later ticks
    (docs/algorithms.md 7.4). Memory and time are the sums over layers.

    With update-locked windows (`every > 1`) in some layers, the others' gradients are added up
    until those pay; if that update is refused, what was saved up waits for the next one.

    Args:
        layers: bottom first; each built for the width of the one below and the same lanes.
    """

    def __init__(self, layers: Sequence[Recurrence]) -> None:
        if not layers:
            raise ValueError("a stack needs at least one layer")
        for i, (below, above) in enumerate(pairwise(layers), 1):
            if above.n_inputs != below.width:
                raise ValueError(
                    f"layer {i} reads {above.n_inputs} inputs, but the one below has {below.width}"
                )
            if above.n_lanes != below.n_lanes:
                raise ValueError(f"layer {i} has {above.n_lanes} lanes, not {below.n_lanes}")
        self.layers = tuple(layers)
        self.n_inputs, self.n_lanes = layers[0].n_inputs, layers[0].n_lanes
        self.width = layers[-1].width
        self._owed: dict[str, Tensor] = {}  # by the parameter's place, while some layer is locked
        self._handed: dict[str, Tensor] = {}  # in the newest gradients; their update may be refused

    @property
    def lane_state(self) -> dict[str, Tensor]:  # type: ignore[override]
        """Every layer's, by flat names."""
        return {
            f"{i}.{name}": tensor
            for i, layer in enumerate(self.layers)
            for name, tensor in layer.lane_state.items()
        }

    @property
    def owes(self) -> bool:
        """Whether some layers' gradients wait for another one's."""
        return bool(self._owed or self._handed)

    @override
    def parameters(self) -> list[Tensor]:
        return [tensor for layer in self.layers for tensor in layer.parameters()]

    @override
    def forward(self, x_BI: Tensor, live_B: Tensor) -> Tensor:
        h_BN = self.layers[0].forward(x_BI, live_B)
        for layer in self.layers[1:]:
            below_BN, h_BN = h_BN, layer.forward(h_BN, live_B)
            # a saturating layer must not hide that the one below it has come apart
            h_BN = torch.where(below_BN.isfinite().all(dim=1, keepdim=True), h_BN, torch.nan)
        return h_BN

    @override
    def learn(self, dL_dh_BN: Tensor, live_B: Tensor) -> tuple[list[Tensor] | None, Tensor]:
        found: list[Sequence[Tensor | None]] = []
        for layer in reversed(self.layers):
            gradients, dL_dh_BN = layer.learn(dL_dh_BN, live_B)
            found.append([None] * len(layer.parameters()) if gradients is None else gradients)
        flat = [gradient for layer_gradients in reversed(found) for gradient in layer_gradients]
        ready = [gradient for gradient in flat if gradient is not None]
        if len(ready) < len(flat):
            self._take_over(found)
            for i, gradient in enumerate(flat):
                if gradient is not None:
                    owed = self._owed.get(str(i))
                    self._owed[str(i)] = gradient if owed is None else owed + gradient
            return None, dL_dh_BN
        for place, waiting in self._owed.items():
            ready[int(place)] = ready[int(place)] + waiting.to(ready[int(place)])
        self._handed, self._owed = self._owed, {}
        return ready, dL_dh_BN

    def _take_over(self, found: Sequence[Sequence[Tensor | None]]) -> None:
        """Gradients that are saved up here are this stack's debt, no longer their layer's."""
        for layer, gradients in zip(reversed(self.layers), found, strict=True):
            for gradient in gradients[:1]:
                if gradient is not None:
                    layer.settle(torch.ones((), dtype=torch.bool, device=gradient.device))

    @override
    def settle(self, updated: Tensor) -> None:
        for layer in self.layers:
            layer.settle(updated)
        for place, handed in self._handed.items():
            # one that is no number would make every gradient unsound that it is added to
            is_gone = updated | ~(torch.linalg.vector_norm(handed) < math.inf)
            self._owed[place] = torch.where(is_gone, 0.0, handed)
        self._handed = {}

    @override
    def roll(self, x_BI: Tensor, live_B: Tensor) -> Tensor:
        h_BN = x_BI
        for layer in self.layers:
            h_BN = layer.roll(h_BN, live_B)
        return h_BN

    @override
    def hidden(self, is_ahead: bool) -> list[Tensor]:
        return [tensor for layer in self.layers for tensor in layer.hidden(is_ahead)]

    @override
    def healthy(self) -> Tensor:
        healthy_B = self.layers[0].healthy()
        for layer in self.layers[1:]:
            healthy_B = healthy_B & layer.healthy()
        return healthy_B

    @override
    def report(self) -> dict[str, Tensor]:
        """Of each fact the layers' worst: the least fidelity, the largest of everything else."""
        worst: dict[str, Tensor] = {}
        for layer in self.layers:
            for name, fact in layer.report().items():
                pick = torch.minimum if name == "fidelity" else torch.maximum
                worst[name] = pick(worst[name], fact) if name in worst else fact
        return worst

    @override
    def reset(self, lanes_B: Tensor) -> None:
        for layer in self.layers:
            layer.reset(lanes_B)

    @override
    def state_dict(self) -> dict[str, Tensor]:
        state = {
            f"{i}.{name}": tensor
            for i, layer in enumerate(self.layers)
            for name, tensor in layer.state_dict().items()
        }
        return state | {f"owed.{i}": tensor for i, tensor in self._owed.items()}

    @override
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        parameters = self.parameters()
        owed = part(state, "owed.")
        for place, tensor in owed.items():
            is_known = place.isdigit() and int(place) < len(parameters)
            if not is_known or tensor.shape != parameters[int(place)].shape:
                raise ValueError(f"state 'owed.{place}' belongs to no parameter of this stack")
        for i, layer in enumerate(self.layers):
            layer.load_state_dict(part(state, f"{i}."))
        self._owed = {place: tensor.clone() for place, tensor in owed.items()}
        self._handed = {}
