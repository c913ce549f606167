"""K-space to image by the name of a method: the one table of methods, their defaults and what they need.

    kspace ─┬▶ zero_filled
            └▶ image
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from firstread.chains.heart import RECONSTRUCTION
from firstread.core.errors import SettingError
from firstread.core.records import KSpace
from firstread.core.stage import Chain, Stage
from firstread.nets.cascade import DeepCascade
from firstread.reconstruct.cascade import Cascade
from firstread.reconstruct.direct import ZeroFilled
from firstread.reconstruct.iterative import CGSense, SpatialTV, TemporalTV
from firstread.zoo.store import load

Build = Callable[[float | None], Stage]
DEFAULT = "cs"


@dataclass(frozen=True)
class Method:
    """A way from k-space to image.

    summary: one line; build: the stage, from a regularization (None: the method's default); default: that default in
    words, None for a method without a regularization; coils, frames: how many it needs at least; caution: what a
    reader of its images must know.
    """

    summary: str
    build: Build
    default: str | None = None
    coils: int = 1
    frames: int = 1
    caution: str | None = None


def _regularized(stage: Callable[..., Stage]) -> Build:
    return lambda weight: stage() if weight is None else stage(regularization=weight)


def _cascade(weight: float | None) -> Stage:
    stored = load(RECONSTRUCTION)
    return Cascade(network=DeepCascade.from_weight(stored.card["network"], stored.state))


_SIMULATED = "Learned from simulated hearts: on other anatomy and contrast it was not measured."

METHODS: Mapping[str, Method] = MappingProxyType({
    "zero-filled": Method("what was not measured is zero", lambda weight: ZeroFilled()),
    "sense": Method("least squares over the coils by conjugate gradients, min ‖Ex - y‖² + λ‖x‖²",
                    _regularized(CGSense), "λ = 0.01 of EᴴE's largest eigenvalue", coils=2),
    "tv": Method("least squares with in-plane total variation, frame by frame", _regularized(SpatialTV),
                 "λ = 0.02 of the image's brightness"),
    "temporal-tv": Method("least squares with total variation along time", _regularized(TemporalTV),
                          "λ = 0.03 of the image's brightness", frames=2),
    "cascade": Method("deep cascade with data consistency, default weight", _cascade, caution=_SIMULATED),
})
COMPRESSED_SENSING = {"one frame": "tv", "a cine": "temporal-tv"}


def method_of(name: str, kspace: KSpace) -> str:
    """The method's own name: ``cs`` is the compressed sensing that suits the data.

    Raises SettingError for an unknown method, or one that needs more coils or frames than there are.
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
    return name


def reconstruct_chain(name: str, *, regularization: float | None = None) -> Chain:
    """The chain of ``firstread reconstruct``: the zero-filled image is kept beside that of ``name``.

    Raises SettingError for a regularization that is negative or that the method does not have.

    >>> print(reconstruct_chain("sense").describe())
    zero_filled(kspace: KSpace) -> zero_filled
    cgsense(kspace: KSpace) -> image
    """
    method = METHODS[name]
    if regularization is not None and (method.default is None or not 0 <= regularization < float("inf")):
        having = ", ".join(n for n, m in METHODS.items() if m.default is not None)
        raise SettingError(f"regularization {regularization} for method {name!r}", expected="zero or more, for one of "
                           f"{having}", remedy="leave --regularization out")
    stage = method.build(regularization).using(reads={"kspace": "kspace"}, writes="image")
    steps = (stage,) if name == "zero-filled" else (ZeroFilled(), stage)
    return Chain(*steps).eval()


def methods_table() -> str:
    """All methods as text, one a line.

    >>> methods_table().splitlines()[1].split()[0]
    'zero-filled'
    """
    lines = [f"{'cs':14} compressed sensing that suits the data: {COMPRESSED_SENSING['one frame']} for one frame, "
             f"{COMPRESSED_SENSING['a cine']} for a cine (the default)"]
    for name, method in METHODS.items():
        needs = [f"{n} {what} or more" for n, what in ((method.coils, "coils"), (method.frames, "frames")) if n > 1]
        extra = [f"default {method.default}"] if method.default else []
        extra += [f"needs {', '.join(needs)}"] if needs else []
        lines.append(f"{name:14} {method.summary}" + (f" ({'; '.join(extra)})" if extra else ""))
    return "\n".join(lines)
