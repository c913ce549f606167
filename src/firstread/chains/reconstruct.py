"""K-space to image by the name of a method: the one table of methods, their defaults and what they need.

    kspace ─┬▶ zero_filled
            └▶ (coil maps, filled lines) ─▶ image
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import get_args

from firstread.chains.heart import RECONSTRUCTION
from firstread.core.errors import SettingError
from firstread.core.records import KSpace
from firstread.core.stage import Chain, Stage
from firstread.nets.cascade import DeepCascade
from firstread.nets.varnet import VariationalNetwork
from firstread.reconstruct.cascade import Cascade
from firstread.reconstruct.choice import Choice
from firstread.reconstruct.direct import CombineCoils, ZeroFilled
from firstread.reconstruct.espirit import Espirit
from firstread.reconstruct.grappa import Grappa
from firstread.reconstruct.iterative import CGSense, SpatialTV, TemporalTV
from firstread.reconstruct.noncartesian import Gridding
from firstread.reconstruct.partial_fourier import POCS, Homodyne
from firstread.reconstruct.sparse import LocallyLowRank, LowRankPlusSparse, Wavelet
from firstread.reconstruct.varnet import VarNet
from firstread.zoo.store import load

Weight = float | str | None
DEFAULT, AUTOMATIC = "cs", "sure"
CHOICES: tuple[str, ...] = get_args(Choice)


@dataclass(frozen=True)
class Method:
    """A way from k-space to image.

    summary: one line; build: its stages, from a regularization (a number, or a way to choose it; None: by ``sure``);
    relative: what a number is relative to, None for a method without a regularization; coils, frames: how many are
    needed at least; trajectory: takes k-space along a trajectory; caution: what a reader of its images must know.
    """

    summary: str
    build: Callable[[Weight], tuple[Stage, ...]]
    relative: str | None = None
    coils: int = 1
    frames: int = 1
    trajectory: bool = False
    caution: str | None = None


def _fixed(*stages: Callable[[], Stage]) -> Callable[[Weight], tuple[Stage, ...]]:
    return lambda weight: tuple(stage() for stage in stages)


def _weighted(stage: Callable[..., Stage], *before: Callable[[], Stage]) -> Callable[[Weight], tuple[Stage, ...]]:
    def build(weight: Weight) -> tuple[Stage, ...]:
        chosen = AUTOMATIC if weight is None else weight
        last = stage(regularization=None, choice=chosen) if isinstance(chosen, str) else stage(regularization=chosen)
        return (*(make() for make in before), last)

    return build


def _cascade() -> Stage:
    stored = load(RECONSTRUCTION)
    return Cascade(network=DeepCascade.from_weight(stored.card["network"], stored.state))


def _varnet() -> Stage:
    stored = load("varnet")
    return VarNet(network=VariationalNetwork.from_weight(stored.card["network"], stored.state))


_SIMULATED = "Learned from simulated hearts: on other anatomy and contrast it was not measured."
_GENERAL = "Learned from simulated objects and coils: it may smooth detail, or show some that was not measured."
_BRIGHTNESS, _EIGENVALUE = "the image's brightness", "EᴴE's largest eigenvalue"

METHODS: Mapping[str, Method] = MappingProxyType({
    "zero-filled": Method("what was not measured is zero", _fixed(ZeroFilled)),
    "gridding": Method("adjoint with density compensation, for trajectories", _fixed(Gridding), trajectory=True),
    "sense": Method("least squares over the coils by conjugate gradients, min ‖Ex - y‖² + λ‖x‖²", _weighted(CGSense),
                    _EIGENVALUE, coils=2, trajectory=True),
    "espirit": Method("ESPIRiT coil maps, then as sense", _weighted(CGSense, Espirit), _EIGENVALUE, coils=2),
    "grappa": Method("missing lines filled by kernels fitted on the centre", _fixed(Grappa, CombineCoils), coils=2),
    "homodyne": Method("partial Fourier by homodyne detection", _fixed(Homodyne, CombineCoils)),
    "pocs": Method("partial Fourier by projections onto convex sets", _fixed(POCS, CombineCoils)),
    "tv": Method("least squares with in-plane total variation, frame by frame", _weighted(SpatialTV),
                 _BRIGHTNESS, trajectory=True),
    "temporal-tv": Method("least squares with total variation along time", _weighted(TemporalTV),
                          _BRIGHTNESS, frames=2, trajectory=True),
    "wavelet": Method("least squares with sparse wavelet coefficients", _weighted(Wavelet), _BRIGHTNESS,
                      trajectory=True),
    "llr": Method("least squares with blocks of low rank over time", _weighted(LocallyLowRank),
                  f"{_BRIGHTNESS} times (block side + √frames)", frames=2, trajectory=True),
    "lowrank-sparse": Method("low rank plus sparse over time", _weighted(LowRankPlusSparse), _BRIGHTNESS,
                             frames=2, trajectory=True),
    "cascade": Method("deep cascade with data consistency, default weight", _fixed(_cascade), caution=_SIMULATED),
    "varnet": Method("variational network, frame by frame, default weight", _fixed(_varnet), coils=2, caution=_GENERAL),
})
COMPRESSED_SENSING = {"one frame": "tv", "a cine": "temporal-tv"}


def method_of(name: str, kspace: KSpace) -> str:
    """The method's own name: ``cs`` is the compressed sensing that suits the data.

    Raises SettingError for an unknown method, or one that does not fit the coils, the frames or the trajectory.
    """
    if name == "cs":
        name = COMPRESSED_SENSING["a cine" if kspace.data.shape[1] > 1 else "one frame"]
    if name not in METHODS:
        raise SettingError(f"method {name!r}", expected=f"one of cs, {', '.join(METHODS)}",
                           remedy="choose one; `firstread reconstruct --list-methods` says what they are")
    method, (frames, coils) = METHODS[name], kspace.data.shape[1:3]
    if frames < method.frames or coils < method.coils:
        raise SettingError(f"{frames} frame(s) and {coils} coil(s) for method {name!r}",
                           expected=f"{method.frames} frame(s) and {method.coils} coil(s) or more",
                           remedy="choose another method, such as tv")
    if kspace.trajectory is not None and not method.trajectory:
        able = ", ".join(n for n, m in METHODS.items() if m.trajectory)
        raise SettingError(f"k-space along a trajectory for method {name!r}", expected=f"one of {able}",
                           remedy="choose one of these")
    if kspace.trajectory is None and name == "gridding":
        raise SettingError("Cartesian k-space for method 'gridding'", expected="k-space along a trajectory",
                           remedy="give --trajectory, or choose zero-filled")
    return name


def regularization_of(text: str | None, name: str) -> Weight:
    """A regularization as a user states it: a number or a way to choose it; None and ``auto``: by ``sure``.

    Raises SettingError for a number that is negative or not finite, and for what the method does not have.
    """
    if text is None:
        return None
    method = METHODS[name]
    having = ", ".join(n for n, m in METHODS.items() if m.relative is not None)
    wrong = SettingError(f"regularization {text} for method {name!r}", expected=f"a number of zero or more, auto, "
                         f"{', '.join(CHOICES)}, for one of {having}", remedy="correct it, or leave --regularization "
                         "out")
    if method.relative is not None and text in ("auto", *CHOICES):
        return AUTOMATIC if text == "auto" else text
    try:
        weight = float(text)
    except ValueError:
        raise wrong from None
    if method.relative is None or not 0 <= weight < float("inf"):
        raise wrong
    return weight


def reconstruct_chain(name: str, weight: Weight = None, *, trajectory: bool = False) -> Chain:
    """The chain of ``firstread reconstruct``: the zero-filled (or gridded) image is kept beside that of ``name``.

    weight: a number, or a way to choose one from the data; None: by ``sure``. The image's notes say what was chosen.

    >>> print(reconstruct_chain("sense").describe())
    zero_filled(kspace: KSpace) -> zero_filled
    cgsense(kspace: KSpace) -> image
    """
    *before, last = METHODS[name].build(weight)
    chain, record = [], "kspace"
    for stage in before:
        chain.append(stage.using(reads={"kspace": record}))
        record = chain[-1].writes
    chain.append(last.using(reads={"kspace": record}, writes="image"))
    if name not in ("zero-filled", "gridding"):
        direct = Gridding() if trajectory else ZeroFilled()
        chain.insert(0, direct.using(reads={"kspace": "kspace"}, writes="zero_filled"))
    return Chain(*chain).eval()


def methods_table() -> str:
    """All methods as text, one a line.

    >>> methods_table().splitlines()[1].split()[0]
    'zero-filled'
    """
    lines = [f"{'cs':15} compressed sensing that suits the data: {COMPRESSED_SENSING['one frame']} for one frame, "
             f"{COMPRESSED_SENSING['a cine']} for a cine (the default)"]
    for name, method in METHODS.items():
        needs = [f"{n} {what} or more" for n, what in ((method.coils, "coils"), (method.frames, "frames")) if n > 1]
        extra = [f"λ relative to {method.relative}; absent: chosen from the data"] if method.relative else []
        extra += [f"needs {', '.join(needs)}"] if needs else []
        extra += ["also along a trajectory"] if method.trajectory and name != "gridding" else []
        lines.append(f"{name:15} {method.summary}" + (f" ({'; '.join(extra)})" if extra else ""))
    return "\n".join(lines)
