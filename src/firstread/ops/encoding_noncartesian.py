"""Multi-coil encoding along a trajectory, ``y = √w F(k) S x``, as a LinearOp."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from firstread.core.errors import SettingError
from firstread.ops.encoding import expand, reduce
from firstread.ops.linear import LinearOp
from firstread.ops.nufft import Plan, nufft, nufft_adjoint
from firstread.ops.nufft_plan import NufftPlan
from firstread.ops.nufft_toeplitz import ramps, toeplitz_gram, toeplitz_kernel

AXES = {("y", "x"): 2, ("z", "y", "x"): 3}


class NonCartesianEncoding(LinearOp):
    """Image ``[batch, time, set, z, y, x]`` to samples ``[batch, time, coil, z, shot, sample]``: ``y = √w F(k) S x``.

    trajectory: k in cycles per field of view, axes in the order of ``fourier_axes``; batch and time may be 1.
    shape: of the image, (z, y, x); with ``fourier_axes`` (z, y, x) the samples have z of length 1.
    sensitivities: coil maps ``S``; None stands for one coil of sensitivity 1.
    weights: w, the weight of each sample in least squares: the density compensation, 0 where not measured; None for 1.
    tolerance: relative error of ``F``; prepare: makes the plan of a trajectory (``NufftPlan``, ``FinufftPlan``).

    Forward and adjoint are differentiable in image (samples), sensitivities, weights and trajectory. ``gram`` is a
    convolution (Fessler 2005), prepared once for each trajectory; where trajectory or weights ask for a gradient it is
    adjoint after forward. After Pruessmann et al., MRM 46:638 (2001).

    >>> line = torch.stack((torch.zeros(4), torch.arange(-2.0, 2.0)))[None, None, :, None]
    >>> encoding = NonCartesianEncoding(trajectory=line, shape=(1, 4, 4))
    >>> encoding(torch.ones(1, 1, 1, 1, 4, 4, dtype=torch.complex64)).abs().round().flatten().tolist()
    [0.0, 0.0, 4.0, 0.0]
    """

    def __init__(self, *, trajectory: Float[Tensor, "#batch #time axis shot sample"], shape: tuple[int, int, int],
                 sensitivities: Complex[Tensor, "#batch set coil z y x"] | None = None,
                 weights: Float[Tensor, "#batch #time 1 1 shot sample"] | None = None,
                 fourier_axes: Sequence[str] = ("y", "x"), tolerance: float = 1e-3,
                 prepare: Callable[..., Plan] = NufftPlan):
        axes = AXES.get(tuple(fourier_axes))
        if axes is None or trajectory.shape[2] != axes:
            raise SettingError(f"a trajectory of {trajectory.shape[2]} axes for Fourier axes {tuple(fourier_axes)}",
                               expected="('y', 'x') or ('z', 'y', 'x'), one row of the trajectory for each",
                               remedy="name the axes of the trajectory in `fourier_axes`")
        self.trajectory, self.shape, self.sensitivities = trajectory, tuple(shape), sensitivities
        self.weights, self.fourier_axes, self.tolerance = weights, tuple(fourier_axes), tolerance
        self._inner = self.shape[-axes:]
        self._prepare = prepare
        self._plans: dict[tuple[int, int, torch.dtype], Plan] = {}
        self._kernels: dict[tuple[int, int, torch.dtype], Tensor] = {}

    @property
    def mask(self) -> Float[Tensor, "#batch #time 1 1 shot sample"]:
        """1 where a sample counts, 0 where its weight is 0."""
        if self.weights is None:
            return torch.ones_like(self.trajectory[:, :, :1, None])
        return (self.weights.detach() != 0).to(self.weights.dtype)

    def forward(self, x: Complex[Tensor, "batch time set z y x"]) -> Complex[Tensor, "batch time coil sz shot sample"]:
        """``√w F(k) S x``."""
        coils = x if self.sensitivities is None else expand(self.sensitivities, x)
        rows = [torch.stack([self._sample(coils[b, t], b, t) for t in range(x.shape[1])]) for b in range(x.shape[0])]
        return self.weigh(torch.stack(rows))

    def adjoint(self, y: Complex[Tensor, "batch time coil sz shot sample"]) -> Complex[Tensor, "batch time set z y x"]:
        """``Sᴴ F(k)ᴴ √w y``."""
        y = self.weigh(y)
        image = torch.stack([torch.stack([self._image(y[b, t], b, t) for t in range(y.shape[1])])
                             for b in range(y.shape[0])])
        if self.sensitivities is None:
            if image.shape[2] != 1:
                raise SettingError(f"{image.shape[2]} coils without sensitivities", expected="one coil",
                                   remedy="give the sensitivities of the coils")
            return image
        return reduce(self.sensitivities.conj(), image)

    def coil_images(self, y: Complex[Tensor, "batch time coil sz shot sample"]
                    ) -> Complex[Tensor, "batch time coil z y x"]:
        """``F(k)ᴴ w y``, one image for each coil: gridding."""
        weighted = self.weigh(self.weigh(y))
        return torch.stack([torch.stack([self._image(weighted[b, t], b, t) for t in range(y.shape[1])])
                            for b in range(y.shape[0])])

    def weigh(self, y: Complex[Tensor, "batch time coil sz shot sample"]
              ) -> Complex[Tensor, "batch time coil sz shot sample"]:
        """``√w y``: what measurements are multiplied with before they are compared with ``forward``."""
        return y if self.weights is None else self.weights.sqrt() * y

    def gram(self, x: Complex[Tensor, "batch time set z y x"]) -> Complex[Tensor, "batch time set z y x"]:
        """``Sᴴ F(k)ᴴ w F(k) S x`` by convolution."""
        if self.trajectory.requires_grad or (self.weights is not None and self.weights.requires_grad):
            return self.adjoint(self.forward(x))
        ramp, maps = ramps(self._inner, x), self.sensitivities
        rows = []
        for b in range(x.shape[0]):
            own = None if maps is None else maps[_own(b, maps.shape[0])]
            rows.append(torch.stack([toeplitz_gram(x[b, t], self._kernel(b, t, x.dtype), ramp, own)
                                     for t in range(x.shape[1])]))
        return torch.stack(rows)

    def bound(self) -> float:
        """An upper bound of the largest eigenvalue of ``Aᴴ A``: that of the circulants times that of the coils."""
        maps = None if self.sensitivities is None else self.sensitivities.detach()
        dtype = self.trajectory.dtype.to_complex() if maps is None else maps.dtype
        parts = [t.shape[:2] for t in (self.trajectory, self.weights) if t is not None]
        batch, time = (max(sizes) for sizes in zip(*parts, strict=True))
        peak = max(float(self._kernel(b, t, dtype).max()) for b in range(batch) for t in range(time))
        if maps is None:
            return peak
        rows = [torch.stack([(one.conj() * other).sum(dim=1).abs() for other in maps.unbind(1)]).sum(dim=0)
                for one in maps.unbind(1)]
        return peak * max(float(row.max()) for row in rows)

    def _sample(self, coils: Tensor, b: int, t: int) -> Tensor:
        made = nufft(coils, self._places(b, t), plan=self._plan(b, t, coils.dtype))
        return made if len(self._inner) == 2 else made[:, None]

    def _image(self, samples: Tensor, b: int, t: int) -> Tensor:
        values = samples if len(self._inner) == 2 else samples[:, 0]
        return nufft_adjoint(values, self._places(b, t), self._inner, plan=self._plan(b, t, samples.dtype))

    def _places(self, b: int, t: int) -> Tensor:
        return self.trajectory[_own(b, self.trajectory.shape[0]), _own(t, self.trajectory.shape[1])]

    def _plan(self, b: int, t: int, dtype: torch.dtype) -> Plan:
        key = (_own(b, self.trajectory.shape[0]), _own(t, self.trajectory.shape[1]), dtype)
        if key not in self._plans:
            places = self._places(b, t).detach().flatten(1)
            self._plans[key] = self._prepare(places, self._inner, tolerance=self.tolerance, dtype=dtype.to_real())
        return self._plans[key]

    def _kernel(self, b: int, t: int, dtype: torch.dtype) -> Tensor:
        sizes = [part.shape[:2] for part in (self.trajectory, self.weights) if part is not None]
        key = (_own(b, max(s[0] for s in sizes)), _own(t, max(s[1] for s in sizes)), dtype)
        if key not in self._kernels:
            places = self._places(b, t).detach().flatten(1)
            weights = torch.ones_like(places[0])
            if self.weights is not None:
                where = _own(b, self.weights.shape[0]), _own(t, self.weights.shape[1])
                weights = self.weights.detach()[where].flatten()
            self._kernels[key] = toeplitz_kernel(weights.to(dtype.to_real()), places, self._inner,
                                                 tolerance=self.tolerance)
        return self._kernels[key]


def _own(index: int, size: int) -> int:
    """Where an axis of length 1 stands for all."""
    return 0 if size == 1 else index
