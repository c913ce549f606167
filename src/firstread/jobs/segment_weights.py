"""Weights of a segmentation network: begun from others, and stored."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import nn

from firstread.core.errors import InputError
from firstread.learn.patches import PreparedCase
from firstread.learn.selfsupervised import pretrain
from firstread.nets.plan import Plan
from firstread.zoo.store import load


def start_from(network: nn.Module, name: str) -> list[str]:
    """Copy every parameter that has the same name and shape from a stored weight; the names of those that stay random.

    Raises InputError where none fits.
    """
    state = load(name).state
    own = network.state_dict()
    members = {key.partition(".")[2]: value for key, value in state.items() if key.startswith("member0.")} or state
    fitting = {key: value for key, value in members.items() if key in own and own[key].shape == value.shape}
    if not fitting:
        raise InputError(f"weights {name!r}, of which nothing fits the plan's network", expected="weights of the same "
                         "network", remedy="take the network of those weights into plan.json")
    network.load_state_dict({**own, **fitting})
    return [key for key in own if key not in fitting]


def painted_weights(cases: Sequence[PreparedCase], plan: Plan, path: Path, *, steps: int, seed: int,
                    device: str = "cpu") -> Path:
    """The file of weights that learned from the images of ``cases`` alone, made where it is not there yet."""
    if not path.is_file():
        save_network(pretrain(cases, plan, steps=steps, checkpoint=path.with_suffix(".pt"), seed=seed, device=device),
                     path)
    return path


def save_network(network: nn.Module, path: Path) -> None:
    """Parameters in single precision, whole or not at all."""
    from safetensors.torch import save_file

    part = path.with_name(path.name + ".part")
    save_file({name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}, part)
    part.replace(path)
