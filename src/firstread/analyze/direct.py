"""Segmentation of a cine by networks that see time, straight from k-space or from reconstructed images.

Nothing looks for the heart: networks see a fixed field about the image's centre, as it was acquired.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from firstread.analyze.segment import ASSUMED, NAMES
from firstread.core.errors import SettingError, SignalError
from firstread.core.geometry import Grid
from firstread.core.records import Image, KSpace, SoftLabels
from firstread.core.stage import Stage
from firstread.nets.views import views_of, views_of_image
from firstread.ops.resample import resample
from firstread.ops.whitening import combine_coils, whitening_matrix


class _Cine(Stage):
    """Views of a cine on a fixed field, through every network, back on the grid of the image."""

    result: ClassVar[str] = "labels.members"

    def __init__(self, *, networks: Sequence[nn.Module], names: tuple[str, ...], spacing_mm: float,
                 field: tuple[int, int]) -> None:
        super().__init__()
        if not networks or spacing_mm <= 0 or min(field) < 1:
            raise SettingError(f"{len(networks)} networks, spacing {spacing_mm} mm, field {field}",
                               expected="one network or more and sizes above zero", remedy="correct the settings")
        self.networks = nn.ModuleList(networks)
        self.names, self.spacing_mm, self.field = names, spacing_mm, field

    def _on_field(self, views: Float[Tensor, "batch time channel z y x"], grid: Grid
                  ) -> Float[Tensor, "rows time channel fy fx"]:
        """What the networks see, one row per batch row and slice."""
        target = field_grid(grid, self.spacing_mm, self.field)
        if not target.same_as(grid):
            channels = views.shape[2]
            views = resample(views.flatten(1, 2), grid, target).unflatten(1, (-1, channels))
        return views.movedim(3, 1).flatten(0, 1)

    def _labels(self, seen: Float[Tensor, "rows time channel fy fx"], grid: Grid, like: Image | KSpace) -> SoftLabels:
        """Probabilities of every network on ``like``'s grid, cut to its ``image_shape`` if it is k-space."""
        target = field_grid(grid, self.spacing_mm, self.field)
        out = like.grid
        if isinstance(like, KSpace) and like.image_shape is not None:
            start = tuple(n // 2 - m // 2 for n, m in zip(out.shape, like.image_shape, strict=True))
            out, grid = (g.crop(start, like.image_shape) for g in (out, grid))
        members = []
        for network in self.networks:
            logits = network(seen)
            if logits.shape[2] != len(self.names):
                raise SettingError(f"a network of {logits.shape[2]} classes", expected=f"the {len(self.names)} named",
                                   remedy="name as many classes as the network has")
            classes = F.softmax(logits, dim=2).unflatten(0, (like.batch, -1)).movedim(1, 3)
            if not target.same_as(grid):
                heart = resample(classes[:, :, 1:].flatten(1, 2), target, grid).unflatten(1, (classes.shape[1], -1))
                heart = heart.clamp(0, 1)
                classes = torch.cat(((1 - heart.sum(dim=2, keepdim=True)).clamp(min=0), heart), dim=2)
            members.append(classes)
        count, copies = len(members), like.repeat_rows(len(members))
        draw = copies.rows.draw * count + torch.arange(count, device=copies.rows.draw.device).repeat(like.batch)
        notes = () if like.grid.has_mm else (replace(ASSUMED, text=ASSUMED.text.format(self.spacing_mm)),)
        return SoftLabels(replace(copies.rows, draw=draw), torch.stack(members, dim=1).flatten(0, 1),
                          out.repeat_rows(count), self.names, copies.times_s, copies.cycle_s, like.source,
                          notes=like.notes).noted(*notes)

    def _grid(self, grid: Grid) -> Grid:
        """The grid itself, or where it has no millimetres one with the networks' own spacing."""
        if grid.has_mm:
            return grid
        sizes = (8.0, self.spacing_mm, self.spacing_mm)
        return replace(Grid.from_spacing(grid.shape, sizes, batch=len(grid.affine)), frame="none")


class SegmentFromKSpace(_Cine):
    """Undersampled Cartesian k-space to probabilities of both ventricles, without a reconstructed image between.

    networks: members, ``[rows, time, channel, y, x]`` views to ``[rows, time, class, y, x]`` logits (``CineUNet``,
    ``LatentInterpolation``); a row is one slice.
    distances: of data sharing; the networks see zero-filled frames and one more set of frames for each
    (:func:`~firstread.nets.views.views_of`), two channels a set.
    spacing_mm, field: pixel size and (y, x) pixels about the image's centre that the networks know; y is the
    phase-encode axis.

    Coils are weighted by the time average of all measured lines; a frame may have no line at all. One row of
    ``labels.members`` per input row and member. Differentiable with respect to ``kspace.data``, and to a mask that is
    being learned. Raises SignalError for NaN or where nothing was measured. After Schlemper et al. 2018 (MICCAI).
    """

    def __init__(self, *, networks: Sequence[nn.Module], distances: tuple[int, ...] = (),
                 names: tuple[str, ...] = NAMES, spacing_mm: float = 2.0,
                 field: tuple[int, int] = (160, 64)) -> None:
        super().__init__(networks=networks, names=names, spacing_mm=spacing_mm, field=field)
        if min(distances, default=1) < 1:
            raise SettingError(f"sharing distances {distances}", expected="one frame or more each",
                               remedy="leave out zero: the zero-filled frames are always there")
        self.distances = distances

    def inputs(self, kspace: KSpace) -> Float[Tensor, "rows time channel fy fx"]:
        """What the networks see: for training them by themselves."""
        kspace.require_cartesian("reading without images")
        data, mask = kspace.data, kspace.mask
        if not bool(torch.isfinite(torch.view_as_real(data.detach())).all()) or not bool((mask != 0).any()):
            raise SignalError("k-space with NaN, or without a measured sample", expected="finite samples, one or more",
                              remedy="check the raw file for damaged readouts, and the mask")
        if kspace.noise_covariance is not None and data.shape[2] > 1:
            data = combine_coils(whitening_matrix(kspace.noise_covariance.to(data.dtype)), data)
        mask = mask if mask.is_floating_point() else mask.to(data.real.dtype)
        views = views_of(data, mask, distances=self.distances, fourier_axes=kspace.fourier_axes)
        return self._on_field(views, self._grid(kspace.grid))

    def forward(self, kspace: KSpace) -> SoftLabels:
        return self._labels(self.inputs(kspace), self._grid(kspace.grid), kspace)


class SegmentCine(_Cine):
    """A reconstructed cine to probabilities of both ventricles, by the same networks as :class:`SegmentFromKSpace`.

    So that the two can be compared with everything else equal. networks: of two input channels, real and imaginary part
    in phase with the time average (a magnitude image has no imaginary part); spacing_mm, field: as there.

    Raises SettingError for more than one channel, SignalError for NaN.
    """

    def __init__(self, *, networks: Sequence[nn.Module], names: tuple[str, ...] = NAMES, spacing_mm: float = 2.0,
                 field: tuple[int, int] = (160, 64)) -> None:
        super().__init__(networks=networks, names=names, spacing_mm=spacing_mm, field=field)

    def inputs(self, image: Image) -> Float[Tensor, "rows time 2 fy fx"]:
        """What the networks see: for training them by themselves."""
        data = image.data if image.data.is_complex() else image.data.to(torch.complex64)
        if data.shape[2] != 1:
            raise SettingError(f"an image of {data.shape[2]} channels", expected="one channel",
                               remedy="combine coils or select a channel before segmenting")
        if not bool(torch.isfinite(torch.view_as_real(data.detach())).all()):
            raise SignalError("an image with values that are no numbers", expected="finite values",
                              remedy="repair the image or its reconstruction")
        return self._on_field(views_of_image(data), self._grid(image.grid))

    def forward(self, image: Image) -> SoftLabels:
        return self._labels(self.inputs(image), self._grid(image.grid), image)


def field_grid(grid: Grid, spacing_mm: float, field: tuple[int, int]) -> Grid:
    """The slices of ``grid`` in ``field`` (y, x) pixels of ``spacing_mm`` about the same centre.

    >>> grid = Grid.from_spacing((1, 8, 8), (8.0, 2.0, 2.0))
    >>> inner = field_grid(grid, 2.0, (4, 4))
    >>> grid.to_index(inner.to_mm(torch.zeros(1, 1, 3))).flatten().tolist()
    [2.0, 2.0, 0.0]
    """
    affine = grid.affine.clone()
    for column, axis, size in ((0, 2, field[1]), (1, 1, field[0])):
        old = grid.affine[:, :3, column]
        new = old * (spacing_mm / grid.spacing_mm[:, axis])[:, None]
        affine[:, :3, 3] += (old * (grid.shape[axis] - 1) - new * (size - 1)) / 2
        affine[:, :3, column] = new
    return replace(grid, affine=affine, shape=(grid.shape[0], *field))

