"""What the stages of learned reconstruction share: scaled measurements in, an image of the scan's own scale out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Complex
from torch import Tensor

from firstread.core.records import Image, KSpace
from firstread.ops.encoding import CartesianEncoding
from firstread.reconstruct.problem import image_from, problem_of


@runtime_checkable
class HasSettings(Protocol):
    """A network that can say what it was built with."""

    def settings(self) -> dict[str, Any]: ...


def settings_of(network: HasSettings) -> str:
    """The network's size, for the trail."""
    return ", ".join(f"{name}={value!r}" for name, value in network.settings().items())


def reconstruct(kspace: KSpace, network: Callable[[Tensor, CartesianEncoding], Tensor], *, calibration_lines: int,
                scaled: bool = True) -> Image:
    """``b N(y / b, E)``, b the image's brightness (1 where not ``scaled``): networks see images of brightness one."""
    problem = problem_of(kspace, calibration_lines=calibration_lines)
    if not scaled:
        return image_from(kspace, network(problem.measured, problem.encoding))
    brightness = problem.brightness()
    image: Complex[Tensor, "batch time 1 z y x"] = network(problem.measured / brightness, problem.encoding)
    return image_from(kspace, brightness * image)
