"""Rules that a short-axis segmentation must meet to be measured without a warning (ukbb_cardiac's quality control)."""

from __future__ import annotations

from jaxtyping import Bool
from torch import Tensor

from firstread.core.records import Note

SMALLEST_PIXELS = 10
FEWEST_SLICES = 6


def segmentation_notes(cavity: Bool[Tensor, "slices y x"], muscle: Bool[Tensor, "slices y x"],
                       right: Bool[Tensor, "slices y x"]) -> list[Note]:
    """Warnings on the end-diastolic masks of one heart, slices in order of position; empty where all is well.

    Rules: every class has 10 pixels or more; 6 slices or more have both cavity and muscle, without a break between
    them; the middle one of these has a right ventricle.

    >>> import torch
    >>> ring = torch.ones(8, 4, 4, dtype=torch.bool)
    >>> segmentation_notes(ring, ring, ring)
    []
    >>> [note.code for note in segmentation_notes(ring[:4], ring[:4], torch.zeros(4, 4, 4, dtype=torch.bool))]
    ['few_pixels', 'few_slices', 'no_right_ventricle']
    """
    notes = []
    sizes = {"LV cavity": cavity, "LV myocardium": muscle, "RV cavity": right}
    for name, mask in sizes.items():
        found = int(mask.sum())
        if found < SMALLEST_PIXELS:
            notes.append(Note("few_pixels", f"The {name} has {found} pixels at end-diastole, fewer than "
                                            f"{SMALLEST_PIXELS}."))
    both = (cavity.flatten(1).any(1) & muscle.flatten(1).any(1)).nonzero().flatten().tolist()
    if len(both) < FEWEST_SLICES:
        notes.append(Note("few_slices", f"{len(both)} slices show LV cavity and muscle at end-diastole; volumes need "
                                        f"the whole ventricle, usually {FEWEST_SLICES} slices or more."))
    if both and both[-1] - both[0] + 1 != len(both):
        notes.append(Note("broken_ventricle", "Between slices with a left ventricle there are slices without; the "
                                              "segmentation should be looked at."))
    if both and not right[both[len(both) // 2]].any():
        notes.append(Note("no_right_ventricle", "The middle slice of the left ventricle shows no right ventricle."))
    return notes
