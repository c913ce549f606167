"""Promptable segmentation as a stage: a mask where the user pointed, carried on through slices and time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from firstread.analyze.prompting import PlanePrompt, Promptable
from firstread.core.errors import GeometryError, SettingError, SignalError
from firstread.core.prompts import Prompts
from firstread.core.records import Image, Note, SoftLabels
from firstread.core.stage import Stage

Propagate = Literal["none", "space", "time", "both"]
NOTHING = Note("nothing_found", "Nothing that stands out was found at the prompt: the mask is empty.")


class SegmentPrompted(Stage):
    """Probability of the object that clicks and boxes point at, in the prompted planes and carried on from there.

    method: segments one plane by what is said of it (:class:`~firstread.analyze.prompting.Promptable`). propagate:
    from the prompted slices to their neighbours (``space``), from the prompted frame forwards and backwards
    (``time``), both (first space, then each slice through time) or ``none``. least_px: a mask below this many pixels is
    none. largest_growth: times as large as in the plane before a mask may be; least_overlap: share of the smaller one
    of both that they must have in common.

    It begins in the slice of the first box, else of the first click on the object. The mask found in a plane is the
    prompt of the next; there it ends where the mask vanishes, leaks or jumps. Slices with clicks or boxes of their own
    obey them, and never end it. A box over several slices bounds the object; it prompts its middle slice.

    ``[background, object]`` on the image's grid; complex images are taken by magnitude. Differentiable with respect to
    ``image.data`` where the method is; the prompts of carried masks are constants of the gradient. Raises GeometryError
    for a prompt outside the image, SettingError for channels or clicks that the method does not know, SignalError for
    values that are no numbers.
    """

    result: ClassVar[str] = "labels"

    def __init__(self, *, method: Promptable, propagate: Propagate = "both", least_px: int = 4,
                 largest_growth: float = 2.5, least_overlap: float = 0.3) -> None:
        super().__init__()
        if least_px < 1 or largest_growth <= 1 or not 0 <= least_overlap < 1:
            raise SettingError(f"{least_px} pixels, growth {largest_growth}, overlap {least_overlap}",
                               expected="one pixel or more, a growth above 1, an overlap from 0 up to 1",
                               remedy="correct them")
        self.method, self.propagate, self.least_px = method, propagate, least_px
        self.largest_growth, self.least_overlap = largest_growth, least_overlap

    def forward(self, image: Image, prompts: Prompts) -> SoftLabels:
        data = _values(image, self.method.channels)
        if prompts.points_mm.shape[1] and not self.method.points:
            raise SettingError("a point for a method that knows boxes alone", expected="a box",
                               remedy="give --box, or weights that know points")
        if prompts.batch != image.batch:
            raise SettingError(f"prompts of {prompts.batch} subjects for {image.batch}", expected="one for each",
                               remedy="prompt each image by itself")
        made = torch.stack([self._one(row, image, prompts, number) for number, row in enumerate(data)])
        both = torch.stack((1 - made, made), dim=2)
        labels = SoftLabels(image.rows, both, image.grid, ("background", prompts.name), image.times_s, image.cycle_s,
                            image.source, notes=image.notes)
        return labels if bool((made.detach() > 0.5).flatten(1).any(1).all()) else labels.noted(NOTHING)

    def _one(self, data: Float[Tensor, "time channel z y x"], image: Image, prompts: Prompts, row: int
             ) -> Float[Tensor, "time z y x"]:
        """Probabilities of one subject."""
        frame = int(prompts.frame[row])
        if not 0 <= frame < len(data):
            raise GeometryError(f"frame {frame} of an image of {len(data)}", expected=f"0 to {len(data) - 1}",
                                remedy="count frames from 0")
        said, bounds = plane_prompts(image, prompts, row)
        bounds = None if bounds is None else bounds.to(data.device)
        empty = PlanePrompt.empty(next(iter(said.values())).spacing_mm)
        zero = torch.zeros(data.shape[3:], dtype=data.dtype, device=data.device)
        slices = list(data[frame].unbind(1))
        if self.propagate in ("space", "both"):
            found = self._carry(slices, said, empty, bounds)
        else:
            found = {z: self.method(slices[z], prompt) for z, prompt in said.items() if prompt.said}
        if bounds is not None:
            found = {z: p * bounds[z] for z, p in found.items() if bool(bounds[z].any())}
        whole: dict[int, dict[int, Tensor]] = {z: {frame: p} for z, p in found.items()}
        if self.propagate in ("time", "both") and len(data) > 1:
            for z, p in found.items():
                if int((p.detach() > 0.5).sum()) >= self.least_px:
                    frames = list(data[:, :, z].unbind(0))
                    whole[z] = self._carry(frames, {frame: said.get(z, empty)}, empty, None, start=(frame, p))
        return torch.stack([torch.stack([whole.get(z, {}).get(t, zero) for z in range(data.shape[2])])
                            for t in range(len(data))])

    def _carry(self, planes: Sequence[Tensor], said: Mapping[int, PlanePrompt], empty: PlanePrompt,
               bounds: Bool[Tensor, "z y x"] | None, start: tuple[int, Tensor] | None = None) -> dict[int, Tensor]:
        """Probabilities of the planes that the object reaches from the one that was prompted first, both ways."""
        first = start[0] if start is not None else next(z for z, prompt in said.items() if prompt.said)
        found = {first: start[1] if start is not None else self.method(planes[first], said[first])}
        for way in (range(first + 1, len(planes)), range(first - 1, -1, -1)):
            mask = found[first].detach() > 0.5
            last: tuple[Tensor, Tensor] | None = (planes[first], mask if bounds is None else mask & bounds[first])
            for number in way:
                prompt = said.get(number, empty)
                if last is not None and int(last[1].sum()) < self.least_px:
                    last = None
                if last is not None:
                    prompt = prompt.after(last[0].detach(), last[1])
                elif not prompt.said:
                    if any(said[n].said for n in way if n in said and abs(n - first) > abs(number - first)):
                        continue
                    break
                p = self.method(planes[number], prompt)
                mask = p.detach() > 0.5
                if bounds is not None:
                    mask = mask & bounds[number]
                if not prompt.said and last is not None and self._ends(last[1], mask):
                    last = None
                    continue
                found[number], last = p, (planes[number], mask)
        return found

    def _ends(self, before: Bool[Tensor, "y x"], mask: Bool[Tensor, "y x"]) -> bool:
        """Whether a mask carried on is none: too small, too large, or elsewhere."""
        old, new, both = (int(m.sum()) for m in (before, mask, before & mask))
        return new < self.least_px or new > self.largest_growth * old or both < self.least_overlap * min(old, new)


def plane_prompts(image: Image, prompts: Prompts, row: int
                  ) -> tuple[dict[int, PlanePrompt], Bool[Tensor, "z y x"] | None]:
    """What is said of each slice, boxes first, then clicks in their order; the voxels that boxes leave (None: all).

    Raises GeometryError for a prompt outside the image, SettingError for two boxes in one slice.
    """
    grid = image.grid.select(torch.tensor([row])).to("cpu")
    sizes = torch.tensor(grid.shape[::-1], dtype=torch.float64)
    spacing = (float(grid.spacing_mm[0, 1]), float(grid.spacing_mm[0, 2]))
    points = grid.to_index(prompts.points_mm[row:row + 1].cpu())[0]
    boxes = grid.to_index(prompts.boxes_mm[row:row + 1].cpu())[0]
    boxes = torch.stack((boxes.amin(1), boxes.amax(1)), dim=1) if len(boxes) else boxes
    for places, what in ((points, "a point"), (boxes.reshape(-1, 3), "a box that reaches")):
        if bool(((places < -0.501) | (places > sizes - 0.499)).any()):
            raise GeometryError(f"{what} outside the image of {'x'.join(map(str, grid.shape[::-1]))} voxels",
                                expected=f"voxel indices (x, y, z) from 0 to {','.join(f'{int(n) - 1}' for n in sizes)}"
                                ", or the millimetres of them", remedy="correct its place or its units")
    said: dict[int, PlanePrompt] = {}
    bounds = None
    for low, high in boxes:
        bottom, top = int(low[2].round()), int(high[2].round())
        middle = (bottom + top) // 2
        if middle in said:
            raise SettingError(f"two boxes in slice {middle}", expected="one: one object at a time",
                               remedy="segment the other object by itself")
        box = torch.stack((low[1], low[0], high[1], high[0])).float()
        if float((box[2:] - box[:2]).min()) < 0.5:
            raise GeometryError("a box of less than a pixel", expected="an extent along both axes of its slice",
                                remedy="give two opposite corners in the plane of the slices")
        said[middle] = replace(PlanePrompt.empty(spacing), box=box)
        if top > bottom:
            x0, y0, x1, y1 = (int(v) for v in (*low[:2].round(), *high[:2].round()))
            bounds = torch.zeros(grid.shape, dtype=torch.bool) if bounds is None else bounds
            bounds[bottom:top + 1, y0:y1 + 1, x0:x1 + 1] = True
    for number in dict.fromkeys(int(z) for z in points[:, 2].round()):
        here = points[:, 2].round() == number
        old = said.get(number, PlanePrompt.empty(spacing))
        said[number] = replace(old, points=points[here][:, [1, 0]].float(), positive=prompts.positive[row].cpu()[here])
    return said, bounds


def _values(image: Image, channels: tuple[int, ...]) -> Float[Tensor, "batch time channel z y x"]:
    """Magnitudes, finite, of a number of channels that the method takes."""
    data = image.data.abs() if image.data.is_complex() else image.data
    data = data if data.is_floating_point() else data.float()
    if data.shape[2] not in channels:
        raise SettingError(f"an image of {data.shape[2]} channels", expected=" or ".join(map(str, channels)),
                           remedy="choose one channel, or combine them")
    if not bool(torch.isfinite(data.detach()).all()):
        raise SignalError("an image with values that are no numbers", expected="finite values",
                          remedy="repair the image first")
    return data
