"""Convolutional recurrent network for cine MRI (Qin et al. 2019): one small network, recurrent over the iterations of
the reconstruction and, in both directions, over the frames.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Complex, Float
from torch import Tensor, nn

from firstread.core.errors import SettingError
from firstread.nets.cascade import data_consistency
from firstread.ops.encoding import CartesianEncoding


def both_ways(driven: Float[Tensor, "time channel y x"], along: nn.Module) -> Float[Tensor, "time channel y x"]:
    """A convolutional recurrence over the frames, forwards plus backwards, with the same weights.

        h_t = relu(d_t + W * h_{t-1})  from the first frame on;  the same from the last on;  their sum

    driven: d, what input and last iteration give; along: the convolution W. Begins at zero at either end.

    >>> both_ways(torch.tensor([1.0, 0.0]).reshape(2, 1, 1, 1), torch.nn.Identity()).flatten().tolist()
    [2.0, 1.0]
    """
    def run(frames: list[Tensor]) -> list[Tensor]:
        state, states = torch.zeros_like(frames[0]), []
        for frame in frames:
            state = F.relu(frame + along(state))
            states.append(state)
        return states

    frames = list(driven.split(1))
    return torch.cat(run(frames)) + torch.cat(run(frames[::-1])[::-1])


class RecurrentBlock(nn.Module):
    """One iteration on one cine: a layer recurrent over time and iterations, ``depth - 2`` over iterations, one plain.

        h₁ = both_ways(W₁ * x + V₁ * h₁'),  h_l = relu(W_l * h_{l-1} + V_l * h_l'),  correction = W_depth * h_{depth-1}

    h' are the states of the iteration before. The correction is zero at first.
    """

    def __init__(self, *, width: int, depth: int):
        super().__init__()
        self.width = width
        self.inputs = nn.ModuleList(nn.Conv2d(2 if n == 0 else width, width, 3, padding=1) for n in range(depth - 1))
        self.states = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1, bias=False) for _ in range(depth - 1))
        self.along = nn.Conv2d(width, width, 3, padding=1)
        self.last = nn.Conv2d(width, 2, 3, padding=1)
        for layer in self.inputs:
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)
        for layer in (*self.states, self.along):
            nn.init.normal_(layer.weight, std=0.3 / (9 * width) ** 0.5)
        nn.init.zeros_(self.along.bias)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, cine: Float[Tensor, "time 2 y x"], before: list[Tensor]
                ) -> tuple[Float[Tensor, "time 2 y x"], list[Tensor]]:
        """The correction and the new states; before: the old ones, empty at the first iteration (all zero)."""
        features, states = cine, []
        for number, (layer, recurrent) in enumerate(zip(self.inputs, self.states, strict=True)):
            driven = layer(features)
            if before:
                driven = driven + recurrent(before[number])
            features = both_ways(driven, self.along) if number == 0 else F.relu(driven)
            states.append(features)
        return self.last(features), states


class RecurrentNetwork(nn.Module):
    """CRNN-MRI: ``iterations`` times the same block, each followed by data consistency.

    iterations, depth, width: of the recurrence, convolutions per iteration, channels between them.
    consistency: first value of the trained weight μ of data consistency; None for noiseless data of one coil.
    steps: of conjugate gradients per data-consistency step with many coils.

    >>> net = RecurrentNetwork(iterations=2, depth=3, width=4)
    >>> image = torch.ones(1, 2, 1, 1, 8, 8, dtype=torch.complex64)
    >>> encoding = CartesianEncoding(mask=torch.ones(1, 1, 1, 1, 8, 1))
    >>> torch.allclose(net(encoding(image), encoding), image, atol=1e-5)
    True
    """

    def __init__(self, *, iterations: int = 5, depth: int = 5, width: int = 64, consistency: float | None = None,
                 steps: int = 4):
        super().__init__()
        if min(iterations, width, steps) < 1 or depth < 2:
            raise SettingError(f"{iterations} iterations of depth {depth}, width {width}, {steps} steps",
                               expected="one or more of each, depth 2 or more", remedy="correct the numbers")
        self.iterations, self.depth, self.width = iterations, depth, width
        self.consistency, self.steps = consistency, steps
        self.block = RecurrentBlock(width=width, depth=depth)
        self.log_weight = None if consistency is None else nn.Parameter(torch.tensor(float(consistency)).log())

    @classmethod
    def from_weight(cls, settings: Mapping[str, Any], state: Mapping[str, Tensor]) -> RecurrentNetwork:
        """The network of a weight file: its card's ``network`` and its parameters."""
        net = cls(iterations=int(settings["iterations"]), depth=int(settings["depth"]), width=int(settings["width"]),
                  consistency=settings["consistency"], steps=int(settings["steps"]))
        net.load_state_dict(dict(state))
        return net.eval()

    def settings(self) -> dict[str, Any]:
        """What ``from_weight`` needs besides the parameters."""
        return {"iterations": self.iterations, "depth": self.depth, "width": self.width,
                "consistency": self.consistency, "steps": self.steps}

    def forward(self, measured: Complex[Tensor, "batch time coil z y x"], encoding: CartesianEncoding
                ) -> Complex[Tensor, "batch time 1 z y x"]:
        """The image, in the units of the measurements."""
        if encoding.sets > 1:
            raise SettingError(f"{encoding.sets} sets of coil maps for a recurrent network",
                               expected="one image per frame", remedy="estimate the maps with sets=1")
        rhs = encoding.adjoint(measured)
        image, states = rhs, [[[] for _ in range(rhs.shape[3])] for _ in range(rhs.shape[0])]
        weight = None if self.log_weight is None else self.log_weight.exp()
        for _ in range(self.iterations):
            parts = torch.view_as_real(image[:, :, 0]).movedim(-1, 2)
            rows = []
            for b, row in enumerate(states):
                cines = []
                for z in range(len(row)):
                    correction, row[z] = self.block(parts[b, :, :, z], row[z])
                    cines.append(correction)
                rows.append(torch.stack(cines, dim=2))
            change = torch.view_as_complex(torch.stack(rows).movedim(2, -1).contiguous())[:, :, None]
            image = data_consistency(image + change, measured, encoding, weight, steps=self.steps, rhs=rhs)
        return image


def crnn_from_state(state: Mapping[str, Tensor]) -> RecurrentNetwork:
    """The network from the authors' parameters (``bcrnn.CRNN_model.i2h.weight``, ``conv1_x.weight`` …).

    Two biases that the authors add to the same sum become one. Raises SettingError where a name is missing or a shape
    does not fit.
    """
    net = RecurrentNetwork()
    prefixes = [("bcrnn.CRNN_model.i2h", "bcrnn.CRNN_model.ih2ih"), *((f"conv{n}_x", f"conv{n}_h") for n in (1, 2, 3))]
    try:
        renamed = {"block.along.weight": state["bcrnn.CRNN_model.h2h.weight"],
                   "block.along.bias": state["bcrnn.CRNN_model.h2h.bias"],
                   "block.last.weight": state["conv4_x.weight"], "block.last.bias": state["conv4_x.bias"]}
        for number, (own, recurrent) in enumerate(prefixes):
            renamed[f"block.inputs.{number}.weight"] = state[f"{own}.weight"]
            renamed[f"block.inputs.{number}.bias"] = state[f"{own}.bias"] + state[f"{recurrent}.bias"]
            renamed[f"block.states.{number}.weight"] = state[f"{recurrent}.weight"]
        net.load_state_dict(renamed)
    except (KeyError, RuntimeError) as error:
        raise SettingError(f"parameters that do not fit ({type(error).__name__})", expected="those of CRNN-MRI, 64 "
                           "filters, 5 layers", remedy="give the authors' state dict") from error
    return net.eval()
