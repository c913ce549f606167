"""Point distribution models of label maps (Cootes 1995): a regularizer of segmentations, and a source of new ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Integer
from torch import Generator, Tensor

from firstread.core.errors import InputError
from firstread.learn.losses import UNKNOWN
from firstread.ops.shape_model import ShapeModel
from firstread.ops.shape_points import directions, enclosed, painted, shape_points, whole

FEWEST, MOST = 12, 400


@dataclass(frozen=True, eq=False)
class LabelShapes:
    """The shape that all structures of a label map make together, and how it varies.

    model: of their points, in units of ``spacing``; inside: which structure lies in the holes of which; typical: mean
    unlikeliness of the shapes it was made of.
    """

    model: ShapeModel
    rays: Float[Tensor, "ray axes"]
    inside: Bool[Tensor, "outer inner"]
    spacing: tuple[float, ...]
    typical: float

    @classmethod
    def fit(cls, labels: Iterable[Integer[Tensor, "row *space"]], classes: int, spacing: tuple[float, ...], *,
            share: float = 0.98) -> LabelShapes:
        """Of label maps (0 the background) that show every structure whole; others are passed over.

        labels: in batches of one size each; no more than some hundred maps are taken. Raises InputError for too few.
        """
        chosen: list[Tensor] = []
        seen = kept = 0
        for batch in labels:
            chosen.append(batch[whole(batch, classes - 1)])
            seen, kept = seen + len(batch), kept + len(chosen[-1])
            if kept >= MOST:
                break
        if kept < FEWEST:
            raise InputError(f"{kept} of {seen} label maps that show every class, each of them whole",
                             expected=f"{FEWEST} or more, for a model of shapes",
                             remedy="use larger patches, label all classes, or leave the shape model out")
        votes = torch.stack([len(rows) * enclosed(rows, classes - 1) for rows in chosen if len(rows)]).sum(0)
        inside = votes > kept / 2
        rays = directions(24, 2) if len(spacing) == 2 else directions(64, 3)
        points = torch.cat([shape_points(_filled(_shares(rows, classes), inside), rays, spacing)
                            for rows in chosen if len(rows)])
        model = ShapeModel.fit(points, share=share)
        return cls(model, rays, inside, spacing, float(model.unlikeliness(points).mean()))

    def points(self, shares: Float[Tensor, "row structure *space"]) -> Float[Tensor, "row point axes"]:
        """Of soft labels without the background; differentiable."""
        return shape_points(_filled(shares, self.inside), self.rays, self.spacing)

    def draw(self, count: int, generator: Generator, *, margin: float = 0.25, limit: float = 2.0
             ) -> Integer[Tensor, "row *space"]:
        """New label maps: random shapes in a field that holds them all, and ``margin`` times as much around.

        limit: standard deviations along each mode. Where outlines overlap, structures with something inside go
        over others, what lies inside goes over them, and else the smaller over the larger.
        """
        shapes = self.model.draw(count, generator, limit=limit)
        low, high = shapes.flatten(0, 1).amin(0), shapes.flatten(0, 1).amax(0)
        edge = margin * (high - low) / 2
        space = tuple(round(float(s) / v) + 1 for s, v in zip(high - low + 2 * edge, self.spacing, strict=True))
        return torch.stack([self.paint(shape - low + edge, space) for shape in shapes])

    def paint(self, points: Float[Tensor, "point axes"], space: tuple[int, ...]) -> Integer[Tensor, "*space"]:
        """One shape as a label map."""
        masks = painted(points.unflatten(0, (len(self.inside), -1)), space, self.spacing)
        made = torch.zeros(space, dtype=torch.uint8)

        def rank(k: int) -> tuple[int, int]:
            return 2 * int(self.inside[:, k].sum()) + int(self.inside[k].any()), -int(masks[k].sum())

        for structure in sorted(range(len(masks)), key=rank):
            made[masks[structure]] = structure + 1
        return made


def shape_loss(shapes: LabelShapes, classes: int) -> Callable[[Tensor, Tensor], Tensor]:
    """From logits and targets to ``mean log(1 + max(0, U / typical - 1))``, U the unlikeliness of the predicted shape.

    No shape as likely as those that the model was made of costs anything. It counts where the truth shows every class
    whole; the truth's own shape is not compared.
    """
    def loss(logits: Tensor, target: Tensor) -> Tensor:
        rows = whole(target, classes - 1)
        if not bool(rows.any()):
            return logits.sum() * 0.0
        shares = logits[rows].softmax(1)[:, 1:].float().cpu()
        unlikely = shapes.model.unlikeliness(shapes.points(shares)) / shapes.typical
        return torch.log1p((unlikely - 1).clamp(min=0)).mean().to(logits.device)

    return loss


def _shares(labels: Integer[Tensor, "row *space"], classes: int) -> Float[Tensor, "row structure *space"]:
    known = torch.where(labels == UNKNOWN, 0, labels)
    return F.one_hot(known.long(), classes).movedim(-1, 1)[:, 1:].float()


def _filled(shares: Float[Tensor, "row structure *space"], inside: Bool[Tensor, "outer inner"]
            ) -> Float[Tensor, "row structure *space"]:
    """Each structure with what lies in its holes."""
    return shares + torch.einsum("oi,ni...->no...", inside.to(shares.dtype), shares)
