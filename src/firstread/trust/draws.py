"""Draws of one subject from networks that know their uncertainty, each measured by itself further down the chain.

Whatever gives the draws (an ensemble, dropout, posterior samples of the reconstruction, a head that predicts a
distribution), what follows is the same: rows with ``rows.draw``, measured one by one, whose spread scales the interval.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar, get_type_hints

import torch
from jaxtyping import Float
from torch import Tensor, nn

from firstread.core.batched import concatenate
from firstread.core.errors import SettingError
from firstread.core.keys import Key
from firstread.core.records import Features, Phenotype, Phenotypes, Record, Rows
from firstread.core.stage import Argument, Stage

DROPOUT = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)


class DropoutDraws(Stage):
    """A stage run ``draws`` times with its dropout left on, a draw of each subject every time (Monte Carlo dropout).

    stage: any stage whose networks have dropout layers; it is replaced by this one in the chain and keeps the names of
    what it reads and writes. Other layers stay in their mode. Which units drop depends on (seed, stage, subject, draw)
    alone. Source: Gal and Ghahramani 2016. Raises SettingError where no layer can drop anything.

    >>> from firstread.core.records import Image
    >>> from firstread.core.wrap import wrap
    >>> network = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.Dropout(0.2), nn.Conv2d(4, 1, 1))
    >>> stage = DropoutDraws(stage=wrap(network, reads=Image, writes=Image, axes="yx", name="denoise"), draws=8)
    >>> stage.writes, stage.random
    ('denoise', True)
    """

    def __init__(self, *, stage: Stage, draws: int) -> None:
        super().__init__()
        if draws < 2 or not any(isinstance(m, DROPOUT) and m.p > 0 for m in stage.modules()):
            raise SettingError(f"{draws} draws of stage {stage.name!r} with "
                               f"{sum(isinstance(m, DROPOUT) for m in stage.modules())} dropout layers",
                               expected="two draws or more, and a dropout layer with p > 0",
                               remedy="train the network with dropout, or use an ensemble")
        self.stage, self.draws = stage, draws

    @property
    def name(self) -> str:
        return self.stage.name

    @property
    def writes(self) -> str:
        return self._writes or self.stage.writes

    @property
    def arguments(self) -> list[Argument]:
        return self.stage.arguments

    @property
    def makes(self) -> type[Record]:
        return self.stage.makes

    def named_for(self, name: str) -> str | None:
        return self._reads.get(name) or self.stage.named_for(name)

    def settings(self) -> str:
        return f"draws={self.draws} with dropout, {self.stage.settings()}"

    def forward(self, key: Key, **records: Record | None) -> Record:
        given = [record for record in records.values() if record is not None]
        owners = list(dict.fromkeys(zip(given[0].rows.subject.tolist(), given[0].rows.draw.tolist(), strict=True)))
        keyed = [name for name, hint in get_type_hints(self.stage.forward).items() if hint is Key]
        layers = [m for m in self.stage.modules() if isinstance(m, DROPOUT)]
        modes = [layer.training for layer in layers]
        made = []
        try:
            for layer in layers:
                layer.train()
            for subject, draw in owners:
                own = {n: r if r is None else r.select(_rows_of(r.rows, subject, draw)) for n, r in records.items()}
                for number in range(self.draws):
                    with torch.random.fork_rng():
                        torch.manual_seed(key.generator(subject, draw, number).initial_seed())
                        keys = {n: Key(key.seed, f"{key.stage}/{number}") for n in keyed}
                        found = self.stage(**own, **keys)
                    made.append(replace(found, rows=replace(found.rows, draw=found.rows.draw * self.draws + number)))
        finally:
            for layer, mode in zip(layers, modes, strict=True):
                layer.train(mode)
        return concatenate(made).noted(*(note for record in made for note in record.notes))


class MeanOverDraws(Stage):
    """One row per subject out of all its draws: the mean of each phenotype over the draws that have it.

    The value of a chain whose draws are samples (of a reconstruction's posterior, of dropout) without a consensus of
    their own. Curves are averaged too. Differentiable.

    >>> draws = Phenotypes(Rows.subjects(1), {"LVEF": Phenotype(torch.tensor([60.0]), "%")}).draws(2)
    >>> MeanOverDraws()(draws)["LVEF"].value.tolist()
    [60.0]
    """

    result: ClassVar[str] = "phenotypes.point"

    def forward(self, members: Phenotypes) -> Phenotypes:
        subjects, owner = torch.unique(members.rows.subject, return_inverse=True)
        first = torch.stack([(owner == number).nonzero()[0, 0] for number in range(len(subjects))])
        values = {name: p if p.value is None else replace(p, value=_mean_by(p.value, owner, len(subjects)))
                  for name, p in members.values.items()}
        curves = {name: _mean_by(curve, owner, len(subjects)) for name, curve in members.curves.items()}
        rows = members.rows.select(first)
        return Phenotypes(replace(rows, draw=torch.zeros_like(rows.draw)), values, curves, notes=members.notes)


def drawn_phenotypes(features: Features, values: Mapping[str, Float[Tensor, "batch draws"]],
                     units: Mapping[str, str]) -> Phenotypes:
    """Phenotypes with one row per subject and draw, from the draws of each row of ``features``."""
    draws = next(iter(values.values())).shape[1]
    rows = features.rows.repeat_rows(draws)
    number = torch.arange(draws, device=rows.draw.device).repeat(features.batch)
    return Phenotypes(replace(rows, draw=rows.draw * draws + number),
                      {name: Phenotype(table.flatten(), units[name]) for name, table in values.items()},
                      notes=features.notes)


def _rows_of(rows: Rows, subject: int, draw: int) -> Tensor:
    return ((rows.subject == subject) & (rows.draw == draw)).nonzero().flatten()


def _mean_by(values: Float[Tensor, "batch *rest"], owner: Tensor, count: int) -> Float[Tensor, "count *rest"]:
    """Mean of the finite values of each owner; NaN where none is."""
    known = torch.isfinite(values)
    zero = values.new_zeros((count, *values.shape[1:]))
    total = zero.index_add(0, owner, torch.where(known, values, torch.zeros_like(values)))
    times = zero.index_add(0, owner, known.to(values))
    return torch.where(times > 0, total / times.clamp_min(1), torch.nan)
