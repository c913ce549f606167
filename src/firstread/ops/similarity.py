"""How alike two images are: SSD, local correlation, normalized gradient fields, mutual information; with gradients.

All take images ``[batch, z, y, x]`` (or samples ``[batch, n]``) and give one number per row, larger is more alike.
``*_gradient`` gives that number and its derivative with respect to ``moving``, in closed form, equal to autograd's.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from firstread.core.errors import SettingError
from firstread.ops.separable import box_sum

FLAT = 1e-4  # variance below which a window of an image of unit range tells nothing


def negative_ssd(fixed: Float[Tensor, "batch *space"], moving: Float[Tensor, "batch *space"]
                 ) -> Float[Tensor, " batch"]:
    """``-mean (F - M)^2``.

    >>> negative_ssd(torch.zeros(1, 4), torch.ones(1, 4)).item()
    -1.0
    """
    return -(fixed - moving).square().flatten(1).mean(dim=1)


def negative_ssd_gradient(fixed: Float[Tensor, "batch *space"], moving: Float[Tensor, "batch *space"]
                          ) -> tuple[Float[Tensor, " batch"], Float[Tensor, "batch *space"]]:
    """:func:`negative_ssd` and its derivative ``2 (F - M) / n``."""
    apart = fixed - moving
    count = apart[0].numel()
    return -apart.square().flatten(1).mean(dim=1), apart * (2 / count)


class LocalCorrelation:
    """Squared correlation in a window around each voxel, averaged (Avants et al. 2008), for one fixed image::

        LNCC = mean_x A^2 / (B C),   A = sum (F - F̄)(M - M̄),  B = sum (F - F̄)^2,  C = sum (M - M̄)^2

    sums over windows of ``2 radius + 1`` voxels along each axis, by running sums. What depends on the fixed image alone
    is computed once. Images should have about unit range: ``floor`` keeps flat windows quiet.

    >>> fixed = torch.rand(1, 6, 6, 6, generator=torch.Generator().manual_seed(0))
    >>> bool(LocalCorrelation(fixed, radius=1)(2 - 3 * fixed) > 0.99)
    True
    """

    def __init__(self, fixed: Float[Tensor, "batch z y x"], *, radius: int = 2, floor: float = FLAT) -> None:
        if radius < 1:
            raise SettingError(f"windows of radius {radius}", expected="1 voxel or more", remedy="correct the radius")
        self.fixed, self.radius = fixed, radius
        self.count = box_sum(torch.ones_like(fixed[:1]), radius)
        self.floor = floor * self.count
        self.mean = box_sum(fixed, radius) / self.count
        self.variation = box_sum(fixed.square(), radius) - self.count * self.mean.square() + self.floor

    def __call__(self, moving: Float[Tensor, "batch z y x"]) -> Float[Tensor, " batch"]:
        """LNCC of each row; differentiable."""
        return self._parts(moving)[-1].flatten(1).mean(dim=1)

    def gradient(self, moving: Float[Tensor, "batch z y x"]
                 ) -> tuple[Float[Tensor, " batch"], Float[Tensor, "batch z y x"]]:
        """LNCC and its derivative, with S a window's sum: ``F S(a) - S(a F̄ - b M̄) - M S(b)``, all over n, where
        ``a = 2 A / (B C)`` and ``b = 2 A^2 / (B C^2)``."""
        mean, cross, own, local = self._parts(moving)
        a = 2 * cross / (self.variation * own)
        b = a * cross / own
        sums = box_sum(torch.stack((a, a * self.mean - b * mean, b)), self.radius)
        slope = (self.fixed * sums[0] - sums[1] - moving * sums[2]) / moving[0].numel()
        return local.flatten(1).mean(dim=1), slope

    def _parts(self, moving: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        sums = box_sum(torch.stack((moving, moving.square(), self.fixed * moving)), self.radius)
        mean = sums[0] / self.count
        cross = sums[2] - self.mean * sums[0]
        own = sums[1] - mean * sums[0] + self.floor
        return mean, cross, own, cross.square() / (self.variation * own)


def normalized_gradient_fields(fixed: Float[Tensor, "batch z y x"], moving: Float[Tensor, "batch z y x"], *,
                               spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0), edge: float = 0.02
                               ) -> Float[Tensor, " batch"]:
    """Whether edges lie along each other, whatever their strength and sign (Haber and Modersitzki 2006)::

        NGF = mean_x <dF, dM>^2 / ((|dF|^2 + e^2) (|dM|^2 + e^2))

    spacing_mm: (z, y, x); edge: e, the gradient (per mm, of an image of unit range) from which on an edge counts.

    >>> ramp = torch.arange(5.0).expand(1, 5, 5, 5)
    >>> round(normalized_gradient_fields(ramp, 3 - 2 * ramp).item(), 2)
    1.0
    """
    one, two = (_gradients(image, spacing_mm) for image in (fixed, moving))
    both = (one * two).sum(dim=0).square()
    strength = (one.square().sum(dim=0) + edge**2) * (two.square().sum(dim=0) + edge**2)
    return (both / strength).flatten(1).mean(dim=1)


def normalized_gradient_fields_gradient(fixed: Float[Tensor, "batch z y x"], moving: Float[Tensor, "batch z y x"], *,
                                        spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0), edge: float = 0.02
                                        ) -> tuple[Float[Tensor, " batch"], Float[Tensor, "batch z y x"]]:
    """:func:`normalized_gradient_fields` and its derivative (by autograd: differences of neighbours are cheap)."""
    with torch.enable_grad():
        leaf = moving.detach().requires_grad_()
        value = normalized_gradient_fields(fixed, leaf, spacing_mm=spacing_mm, edge=edge)
        slope, = torch.autograd.grad(value.sum(), leaf)
    return value.detach(), slope


def joint_histogram(fixed: Float[Tensor, "batch n"], moving: Float[Tensor, "batch n"], *, bins: int = 32,
                    weights: Float[Tensor, "batch n"] | None = None) -> Float[Tensor, "batch bins bins"]:
    """Joint density of values in 0 to 1 with linear Parzen windows; differentiable with respect to all arguments.

    >>> joint_histogram(torch.tensor([[0.0, 1.0]]), torch.tensor([[0.0, 1.0]]), bins=2).tolist()
    [[[0.5, 0.0], [0.0, 0.5]]]
    """
    batch = fixed.shape[0]
    (low_f, part_f), (low_m, part_m) = (_bin(values, bins) for values in (fixed, moving))
    weight = torch.ones_like(moving) if weights is None else weights
    base = (torch.arange(batch, device=fixed.device)[:, None] * bins + low_f) * bins + low_m
    flat = torch.zeros(batch * bins * bins, dtype=moving.dtype, device=moving.device)
    for step_f, share_f in ((0, 1 - part_f), (bins, part_f)):
        for step_m, share_m in ((0, 1 - part_m), (1, part_m)):
            amount = (weight * share_f * share_m).flatten()
            flat = flat.index_add(0, (base + step_f + step_m).flatten(), amount)
    table = flat.reshape(batch, bins, bins)
    return table / table.sum(dim=(1, 2), keepdim=True).clamp_min(1e-12)


def mutual_information(joint: Float[Tensor, "batch bins bins"]) -> Float[Tensor, " batch"]:
    """``sum p(f, m) log(p(f, m) / (p(f) p(m)))`` in nats (Viola and Wells 1997; Maes et al. 1997).

    >>> round(mutual_information(torch.eye(4)[None] / 4).item(), 3)
    1.386
    """
    return (joint * _log_ratio(joint)).sum(dim=(1, 2))


def mutual_information_gradient(fixed: Float[Tensor, "batch z y x"], moving: Float[Tensor, "batch z y x"], *,
                                bins: int = 32
                                ) -> tuple[Float[Tensor, " batch"], Float[Tensor, "batch z y x"]]:
    """Mutual information of images with values in 0 to 1, and its derivative with respect to ``moving``.

    With linear windows ``dMI/dM(x) = (bins - 1) / n sum_f w_f(F(x)) (L(f, m + 1) - L(f, m))``,
    ``L = log(p(f, m) / p(m))``: a look-up in a table of the differences of L. Zero where ``moving`` leaves 0 to 1.
    """
    batch, count = fixed.shape[0], fixed[0].numel()
    one, two = fixed.flatten(1), moving.flatten(1)
    joint = joint_histogram(one, two, bins=bins)
    ratio = (joint.clamp_min(1e-7).log() - joint.sum(dim=1, keepdim=True).clamp_min(1e-7).log())
    steps = (ratio[:, :, 1:] - ratio[:, :, :-1]).reshape(batch, -1)
    (low_f, part_f), (low_m, _) = _bin(one, bins), _bin(two, bins)
    place = low_f * (bins - 1) + low_m
    slope = (1 - part_f) * steps.gather(1, place) + part_f * steps.gather(1, place + bins - 1)
    inside = (two > 0) & (two < 1)
    return mutual_information(joint), (slope * inside * ((bins - 1) / count)).reshape(moving.shape)


def _log_ratio(joint: Tensor) -> Tensor:
    own = joint.sum(dim=2, keepdim=True) * joint.sum(dim=1, keepdim=True)
    return joint.clamp_min(1e-12).log() - own.clamp_min(1e-12).log()


def _bin(values: Tensor, bins: int) -> tuple[Tensor, Tensor]:
    """The bin below each value and the share of the one above."""
    place = values.clamp(0, 1) * (bins - 1)
    low = place.detach().floor().clamp(max=bins - 2).long()
    return low, place - low


def _gradients(image: Tensor, spacing_mm: tuple[float, float, float]) -> Tensor:
    """Central differences per mm along the axes longer than one, ``[axis, batch, z, y, x]``."""
    axes = [axis for axis in (1, 2, 3) if image.shape[axis] > 1]
    return torch.stack(torch.gradient(image, dim=axes, spacing=[spacing_mm[axis - 1] for axis in axes]))
