"""What the missing lines leave open of every number: posterior draws of the reconstruction, measured one by one.

    kspace ─▶ coil maps ─▶ posterior ─┬▶ draw 0 ─▶ labels of all members ─▶ consensus ─▶ phenotypes ─┬▶ values of the
                                      └▶ draw k ─▶ …                                              ───┘   draws
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch

from firstread.chains.heart import Phase
from firstread.chains.posterior import PRIOR, posterior
from firstread.core.case import Case
from firstread.core.errors import InputError
from firstread.core.keys import Key
from firstread.core.records import KSpace, Note
from firstread.core.stage import Chain, Stage
from firstread.measure.cardiac import CardiacFunction
from firstread.reconstruct.espirit import Espirit
from firstread.reconstruct.posterior import Posterior

SHOWN = "LVEF"


def draws_of(case: Case, segmentation: Sequence[Stage], draws: int, *, phase: Phase | None = None,
             sampler: Posterior | None = None, watch: Callable[[str], None] = lambda text: None
             ) -> dict[str, tuple[float, ...]]:
    """Every phenotype of each of ``draws`` posterior draws of the image, NaN where a draw does not have it.

    segmentation: stages from the record ``image`` to ``labels``; sampler: another than the default posterior. Draws
    depend on (seed of the case, stage, subject, draw) alone: draw 3 is the same of 4 and of 40. Raises InputError for
    a case without the raw signal of one subject, or fewer than two draws; SignalError where no coil map can be found.
    """
    kspace = case.get("kspace")
    if not isinstance(kspace, KSpace) or kspace.batch != 1 or draws < 2:
        raise InputError(f"{draws} draws of the reconstruction of {'images' if kspace is None else 'raw signal'}",
                         expected="the raw signal of one subject, and two draws or more",
                         remedy="leave --draws out, or give the raw file")
    sampler = posterior() if sampler is None else sampler
    watch("coil maps")
    with_maps = kspace if kspace.data.shape[2] == 1 or kspace.sensitivities is not None else Espirit(kernel=5)(kspace)
    copies = with_maps.map(lambda tensor: tensor.expand(draws, *tensor.shape[1:]))  # shares the memory of the signal
    copies = replace(copies, rows=replace(copies.rows, draw=torch.arange(draws)))
    watch(f"{draws} draws of the image")
    images = sampler(copies, Key(case.seed, sampler.name))
    measure = Chain(*segmentation, CardiacFunction(phase=phase, warn=False).using(reads={"labels": "labels"},
                                                                                  writes="phenotypes"))
    found: dict[str, list[float]] = {}
    for number in range(draws):
        watch(f"draw {number + 1} of {draws}")
        one = images.select(torch.tensor([number]))
        one = replace(one, rows=replace(one.rows, draw=torch.zeros_like(one.rows.draw)))
        for name, phenotype in measure(Case({"image": one}, seed=case.seed))["phenotypes"].values.items():
            value = math.nan if phenotype.value is None else float(phenotype.value[0])
            found.setdefault(name, []).append(value)
    return {name: tuple(values) for name, values in found.items() if any(map(math.isfinite, values))}


def draws_note(drawn: Mapping[str, Sequence[float]], draws: int, value: float = math.nan) -> Note:
    """What the reader of the numbers must know. value: the number itself, of the default reconstruction."""
    known = [value for value in drawn.get(SHOWN, ()) if math.isfinite(value)]
    scatter = f": {SHOWN} from {min(known):.1f} to {max(known):.1f} %" if len(known) > 1 else ""
    outside = (f" The number itself, {value:.1f} %, lies outside: the two ways to reconstruct differ by more than the "
               "draws do.") if known and not (min(known) <= value <= max(known) or math.isnan(value)) else ""
    return Note("posterior_draws", f"{draws} images that fit the measured lines (posterior draws, prior {PRIOR}) were "
                f"measured{scatter}. Their scatter is what the missing lines leave open, not an interval.{outside}",
                "info")
