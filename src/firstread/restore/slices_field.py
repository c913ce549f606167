"""A neural field instead of voxels: a small network of position, fitted to the slices of one case, poses refined too.

    y_n(u, v) ≈ s_n f(E γ(r)),   r ~ N(r_n(u, v), Σ_n),   E sin(2π b·r) = sin(2π b·r̄) exp(-2π² bᵀ Σ_n b)

γ are random Fourier features (Tancik et al. 2020), their mean over the slice profile is exact (Barron et al. 2021), so
that no profile is sampled; f is a multilayer perceptron. The same model of slices with a network of position instead of
a grid is NeSVoR's (Xu et al. 2023), which has hash tables; this one is small enough for a CPU. No gradient to stacks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

from firstread.core.keys import Key
from firstread.ops.rigid import exponential
from firstread.ops.slice_sampling import FWHM, IN_PLANE
from firstread.restore.slices_input import SliceSet
from firstread.restore.slices_loop import MEAN, Fit, Progress

CHUNK = 32_768  # points rendered at once


@dataclass(frozen=True)
class FieldSettings:
    """frequencies: how many, of standard deviation ``band`` (cycles per mm); width: of the two hidden layers; steps of
    Adam on ``pixels`` pixels each; rates: of the network, and of the poses (rad, and mm times ten)."""

    frequencies: int = 256
    band: float = 0.05
    width: int = 128
    steps: int = 400
    pixels: int = 3000
    rates: tuple[float, float] = (1e-2, 1e-3)


class Field(nn.Module):
    """``f(γ)``: two hidden layers on Fourier features of fixed random frequencies."""

    frequencies: Tensor

    def __init__(self, *, settings: FieldSettings):
        super().__init__()
        generator = Key(0, "field").generator()
        self.register_buffer("frequencies", settings.band * torch.randn(settings.frequencies, 3, generator=generator))
        sizes = (2 * settings.frequencies, settings.width, settings.width, 1)
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        for layer in self.layers:
            bound = math.sqrt(6 / layer.in_features)
            with torch.no_grad():
                layer.weight.uniform_(-bound, bound, generator=generator)
                layer.bias.zero_()

    def forward(self, points_mm: Float[Tensor, "point 3"], damping: Float[Tensor, "#point frequency"]
                ) -> Float[Tensor, " point"]:
        """Intensities at ``points_mm``; damping: ``exp(-2π² bᵀ Σ b)`` of every frequency b."""
        hidden = mean_features(points_mm, self.frequencies, damping)
        for layer in self.layers[:-1]:
            hidden = torch.relu(layer(hidden))
        return self.layers[-1](hidden)[:, 0]


def mean_features(points_mm: Float[Tensor, "point 3"], frequencies: Float[Tensor, "frequency 3"],
                  damping: Float[Tensor, "#point frequency"]) -> Float[Tensor, "point feature"]:
    """``E (sin, cos)(2π b·r)`` for Gaussian r about ``points_mm``.

    >>> mean_features(torch.zeros(1, 3), torch.ones(1, 3), torch.full((1, 1), 0.5)).tolist()
    [[0.0, 0.5]]
    """
    phase = 2 * math.pi * points_mm @ frequencies.T
    return torch.cat((torch.sin(phase) * damping, torch.cos(phase) * damping), dim=1)


def profile_damping(frequencies: Float[Tensor, "frequency 3"], normals: Float[Tensor, "slice 3"],
                    sigma_mm: Float[Tensor, "slice 2"]) -> Float[Tensor, "slice frequency"]:
    """``exp(-2π² (σ² |b|² + (τ² - σ²) (b·n)²))``: sd σ in plane, τ along the normal n.

    >>> profile_damping(torch.ones(1, 3), torch.eye(3)[:1], torch.zeros(1, 2)).item()
    1.0
    """
    plane, through = sigma_mm.float().square().unbind(dim=1)
    along = (normals @ frequencies.T).square()
    every = frequencies.square().sum(dim=1)
    return torch.exp(-2 * math.pi**2 * (plane[:, None] * every + (through - plane)[:, None] * along))


def fit_field(fit: Fit, slices: SliceSet, shape: tuple[int, int, int], spacing_mm: float, *, progress: Progress,
              settings: FieldSettings | None = None) -> tuple[Float[Tensor, "z y x"], Float[Tensor, "slice 4 4"]]:
    """The field on the voxels of the volume, and the poses refined with it; weights are those of ``fit``."""
    settings = settings or FieldSettings()
    weights = fit.pixel_weights * fit.weights[:, None, None]
    which, v, u = (weights > 0.05).nonzero().T
    data = _Pixels(which, slices.points()[which, v, u], (slices.values * fit.gain())[which, v, u] / MEAN,
                   weights[which, v, u])
    centres = slices.points().flatten(1, 2).mean(dim=1)
    normals = slices.affine[:, :3, 2] / slices.affine[:, :3, 2].norm(dim=1, keepdim=True)
    with torch.enable_grad():
        field = Field(settings=settings)
        twist = torch.zeros(len(slices), 6, requires_grad=True)
        scale = torch.zeros(len(slices), requires_grad=True)
        optimizer = torch.optim.Adam([{"params": field.parameters(), "lr": settings.rates[0]},
                                      {"params": [twist, scale], "lr": settings.rates[1]}])
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, list(settings.rates), total_steps=settings.steps)
        generator = Key(0, "field pixels").generator()
        for step in range(settings.steps):
            if step % 100 == 0:
                progress(f"  field: step {step} of {settings.steps}")
            pick = torch.randint(len(data.which), (settings.pixels,), generator=generator)
            poses = _moved(fit.poses.float(), twist, centres)
            n = data.which[pick]
            places = (poses[n, :3, :3] @ data.points[pick, :, None])[..., 0] + poses[n, :3, 3]
            turned = (poses[:, :3, :3] @ normals.float()[..., None])[..., 0]
            damping = profile_damping(field.frequencies, turned, slices.sigma_mm)
            error = field(places, damping[n]) - data.values[pick] * torch.exp(scale - scale.mean())[n]
            loss = (data.weights[pick] * error.square()).sum() / data.weights[pick].sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    with torch.no_grad():
        poses = _moved(fit.poses, twist.double(), centres.double())
        return MEAN * _rendered(field, shape, spacing_mm), poses


@dataclass(frozen=True, eq=False)
class _Pixels:
    """Pixels that count: which slice they are of, where (mm, before the pose), value, weight."""

    which: Tensor
    points: Tensor
    values: Tensor
    weights: Tensor


def _moved(poses: Tensor, twist: Tensor, centres: Tensor) -> Tensor:
    """Poses after a motion about where each slice's centre is; translations are in tenths of a twist's unit."""
    motion = exponential(twist * twist.new_tensor([1, 1, 1, 10, 10, 10]))
    place = (poses[:, :3, :3] @ centres[..., None])[..., 0] + poses[:, :3, 3]
    back = torch.eye(4, dtype=poses.dtype).repeat(len(poses), 1, 1)
    there = back.clone()
    back[:, :3, 3], there[:, :3, 3] = -place, place
    return there @ motion @ back @ poses


def _rendered(field: Field, shape: tuple[int, int, int], spacing_mm: float) -> Tensor:
    """The field through a Gaussian of the voxels' size."""
    axes = [(torch.arange(n) - (n - 1) / 2) * spacing_mm for n in shape]
    z, y, x = torch.meshgrid(*axes, indexing="ij")
    points = torch.stack((x, y, z), dim=-1).reshape(-1, 3)
    sd = torch.full((1, 2), IN_PLANE * spacing_mm / FWHM)
    damping = profile_damping(field.frequencies, torch.eye(3)[:1], sd)
    return torch.cat([field(part, damping) for part in points.split(CHUNK)]).reshape(shape)
