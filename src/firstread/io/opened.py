"""What reading a file gives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from firstread.core.case import Case
from firstread.core.reading import Person

Kind = Literal["DICOM", "NIfTI", "ISMRMRD", "fastMRI", "BART", "MATLAB", "twix", "npy",
               "picture", "rays"]


@dataclass(frozen=True)
class Opened:
    """A file or folder that was read.

    case: the record ``image`` (pixels), ``kspace``, ``sinogram`` or ``emission`` (raw signal), with notes; person: what
    the file says of the person imaged; kind: the format, detected from the content.
    """

    case: Case
    person: Person
    kind: Kind
