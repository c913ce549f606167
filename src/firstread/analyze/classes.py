"""The classes of another's segmentation as those that a measurement knows."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

import torch

from firstread.analyze.segment import NAMES
from firstread.core.errors import InputError, SettingError
from firstread.core.records import SoftLabels
from firstread.core.stage import Stage

SHORT = {"LV": "LV cavity", "MYO": "LV myocardium", "RV": "RV cavity"}
_KNOWN = {
    "LV cavity": ("lv", "lvc", "lvcavity", "lvbp", "lvbloodpool", "leftventricle", "leftventricularcavity",
                  "leftventriclecavity"),
    "LV myocardium": ("myo", "lvm", "lvmyo", "myocardium", "lvmyocardium", "leftventricularmyocardium",
                      "leftventriclemyocardium"),
    "RV cavity": ("rv", "rvc", "rvcavity", "rvbp", "rvbloodpool", "rightventricle", "rightventricularcavity",
                  "rightventriclecavity"),
}


class MapClasses(Stage):
    """Probabilities of the classes ``names``: each the sum of the model's classes in ``sources``, the rest background.

    names: background first; sources: for each of the others the channels of the labels that are taken. Differentiable.
    Raises SettingError for channels that the labels do not have.

    >>> from firstread.core.geometry import Grid
    >>> from firstread.core.records import Rows
    >>> found = SoftLabels(Rows.subjects(), torch.tensor([0.1, 0.2, 0.7]).reshape(1, 1, 3, 1, 1, 1),
    ...                    Grid.pixels((1, 1, 1)), ("background", "a", "b"))
    >>> MapClasses(names=("background", "B"), sources=((2,),))(found).data.flatten().tolist()
    [0.30000001192092896, 0.699999988079071]
    """

    result: ClassVar[str] = "labels.members"

    def __init__(self, *, names: tuple[str, ...] = NAMES, sources: tuple[tuple[int, ...], ...]) -> None:
        super().__init__()
        taken = [channel for some in sources for channel in some]
        if len(sources) != len(names) - 1 or len(set(taken)) != len(taken) or not all(sources) or min(taken) < 1:
            raise SettingError(f"classes {names} from the channels {sources}",
                               expected="for each but the background channels of its own, none of them 0",
                               remedy="name every class once")
        self.names, self.sources = names, sources

    def forward(self, labels: SoftLabels) -> SoftLabels:
        if max(channel for some in self.sources for channel in some) >= labels.data.shape[2]:
            raise SettingError(f"labels of {labels.data.shape[2]} classes for the channels {self.sources}",
                               expected="channels that the labels have", remedy="correct the numbers of the classes")
        taken = [labels.data[:, :, list(some)].sum(dim=2, keepdim=True) for some in self.sources]
        rest = (1 - torch.cat(taken, dim=2).sum(dim=2, keepdim=True)).clamp(min=0)
        return replace(labels, data=torch.cat((rest, *taken), dim=2), names=self.names)


def heart_sources(classes: Sequence[str], stated: Mapping[str, str] | None = None) -> tuple[tuple[int, ...], ...]:
    """For LV cavity, LV myocardium and RV cavity the channel of a model's ``classes``, by ``stated`` or by their names.

    stated: LV, MYO and RV, each a number or a name of the model. Raises InputError where one is not found.

    >>> heart_sources(("background", "RV", "MYO", "LV"))
    ((3,), (2,), (1,))
    >>> heart_sources(("background", "a", "b", "c"), {"LV": "1", "MYO": "b", "RV": "3"})
    ((1,), (2,), (3,))
    """
    stated = {key.strip().upper(): value.strip() for key, value in (stated or {}).items()}
    if unknown := sorted(set(stated) - set(SHORT)):
        raise InputError(f"the class {', '.join(unknown)}", expected="LV, MYO and RV", remedy="correct --classes")
    listed = ", ".join(f"{number} {name}" for number, name in enumerate(classes))
    found = []
    for short, full in SHORT.items():
        if short in stated:
            wanted = stated[short]
            fits = [n for n, name in enumerate(classes) if wanted in (str(n), name)]
        else:
            fits = [n for n, name in enumerate(classes) if re.sub("[^a-z]", "", name.lower()) in _KNOWN[full]]
        if len(fits) != 1 or fits[0] == 0:
            raise InputError(f"a model of the classes {listed}", expected=f"one that is the {full}",
                             remedy="say which: --classes LV=1,MYO=2,RV=3")
        found.append((fits[0],))
    return tuple(found)
