"""Line integrals and coincidences to image by the name of a method, as ``chains.reconstruct`` has it for k-space."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from firstread.core.emission import Emission
from firstread.core.errors import SettingError
from firstread.core.sinogram import Sinogram
from firstread.core.stage import Chain, Stage
from firstread.reconstruct.ct import SART, FilteredBackprojection, SinogramTV
from firstread.reconstruct.pet import MLEM, OSEM


@dataclass(frozen=True)
class RayMethod:
    """A way from rays to image. summary: one line; reads: the kind of record; build: from a regularization."""

    summary: str
    reads: type[Sinogram] | type[Emission]
    build: Callable[[float | None], Stage]
    regularized: bool = False


def _tv(regularization: float | None) -> Stage:
    return SinogramTV() if regularization is None else SinogramTV(regularization=regularization)


METHODS: Mapping[str, RayMethod] = MappingProxyType({
    "fbp": RayMethod("CT: filtered backprojection, Hann window (the default of CT)", Sinogram,
                     lambda _: FilteredBackprojection()),
    "sart": RayMethod("CT: simultaneous algebraic reconstruction", Sinogram, lambda _: SART()),
    "tv": RayMethod("CT: weighted least squares with total variation, λ = 0.3 HU", Sinogram, _tv, regularized=True),
    "mlem": RayMethod("PET: maximum likelihood by expectation maximization", Emission, lambda _: MLEM()),
    "osem": RayMethod("PET: the same over ordered subsets (the default of PET)", Emission, lambda _: OSEM()),
})


def ray_chain(name: str | None, rays: Sinogram | Emission, regularization: str | None = None) -> Chain:
    """The chain of one method, from the record ``sinogram`` or ``emission`` to ``image``.

    name: None for the default. Raises SettingError for a method that is unknown or of the other modality, or a
    regularization that is no number or that the method does not have.
    """
    fitting = [n for n, method in METHODS.items() if isinstance(rays, method.reads)]
    what, record = ("CT", "sinogram") if isinstance(rays, Sinogram) else ("PET", "emission")
    name = name or {"CT": "fbp", "PET": "osem"}[what]
    if name not in fitting:
        raise SettingError(f"method {name!r} for {what}", expected=f"one of {', '.join(fitting)}",
                           remedy="choose one of these, or leave --method out")
    stage = METHODS[name].build(_number(regularization, name))
    return Chain(stage.using(reads={record: record}, writes="image")).eval()


def _number(text: str | None, name: str) -> float | None:
    if text is None:
        return None
    wrong = SettingError(f"regularization {text} for method {name!r}", expected="a number of zero or more, for tv",
                         remedy="correct it, or leave --regularization out")
    try:
        value = float(text)
    except ValueError:
        raise wrong from None
    if not METHODS[name].regularized or not 0 <= value < float("inf"):
        raise wrong
    return value


def ray_methods_table() -> str:
    """All methods as text, one a line.

    >>> ray_methods_table().splitlines()[0].split()[0]
    'fbp'
    """
    return "\n".join(f"{name:15} {method.summary}" for name, method in METHODS.items())
