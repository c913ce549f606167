"""The folders of public reconstruction challenges: which volumes they hold, and their fully sampled images.

fastMRI: ``*.h5`` with ``kspace`` and ``reconstruction_rss`` (``reconstruction_esc`` for single-coil data).
CMRxRecon 2023: ``{MultiCoil,SingleCoil}/Cine/TrainingSet/{FullSample,AccFactor04,AccFactor08,AccFactor10}/P001/
cine_{sax,lax}.mat`` with ``kspace_full`` and ``kspace_sub04`` … (``kspace_single_…`` for single-coil data), MATLAB 7.3,
in MATLAB's order (kx, ky, coil, slice, frame), the mask in ``cine_sax_mask.mat``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import torch
from jaxtyping import Complex, Float
from torch import Tensor

from firstread.core.errors import FormatError, InputError
from firstread.core.geometry import Grid
from firstread.core.records import KSpace, Rows
from firstread.io.limits import damaged_hdf5, require_plausible


def fastmri_volumes(folder: Path) -> list[Path]:
    """All volumes of a fastMRI folder, in name order.

    Raises InputError where there are none.
    """
    found = sorted(folder.glob("*.h5")) if folder.is_dir() else [folder] if folder.is_file() else []
    if not found:
        raise InputError(f"no fastMRI volume in {folder.name}", expected="a folder of .h5 files, such as multicoil_val",
                         remedy="check the path")
    return found


def fastmri_truth(path: Path) -> tuple[Float[Tensor, "slice y x"], str]:
    """The challenge's own reference image of a volume, and its ``acquisition`` (CORPD_FBK …).

    Raises InputError for a volume without one (those of the test sets).
    """
    with damaged_hdf5(path), h5py.File(path, "r") as file:
        name = next((n for n in ("reconstruction_rss", "reconstruction_esc") if n in file), None)
        if name is None or file[name].ndim != 3:
            raise InputError(f"{path.name} without a fully sampled image", expected="reconstruction_rss or "
                             "reconstruction_esc", remedy="take a training or validation folder")
        require_plausible(file[name].shape, 4, path.stat().st_size, ratio=1100.0, what="fastMRI file")
        image = torch.from_numpy(np.asarray(file[name][()], dtype=np.float32))
        return image, str(file.attrs.get("acquisition", "unknown"))


@dataclass(frozen=True)
class CineFiles:
    """One cine of CMRxRecon 2023. view: sax or lax; coils: MultiCoil or SingleCoil."""

    patient: str
    view: str
    coils: str
    full: Path
    folder: Path

    @property
    def middle(self) -> str:
        """What names of variables have in the middle."""
        return "single_" if self.coils == "SingleCoil" else ""

    def undersampled(self, acceleration: int) -> Path:
        """The file of an acceleration; with it lies the mask, ``…_mask.mat``."""
        return self.folder / f"AccFactor{acceleration:02d}" / self.patient / self.full.name


def cmrxrecon_cines(folder: Path) -> list[CineFiles]:
    """All fully sampled cines under a CMRxRecon 2023 folder (the whole, or any part that holds ``FullSample``).

    Raises InputError where there are none.
    """
    found = []
    for path in sorted(folder.rglob("cine_?ax.mat")) if folder.is_dir() else []:
        if path.parent.parent.name != "FullSample":
            continue
        coils = "SingleCoil" if "SingleCoil" in path.parts else "MultiCoil"
        found.append(CineFiles(path.parent.name, path.stem[-3:], coils, path, path.parent.parent.parent))
    if not found:
        raise InputError(f"no fully sampled cine in {folder.name}", remedy="check the path; only the training set of "
                         "2023 is fully sampled", expected="…/Cine/TrainingSet/FullSample/P001/cine_sax.mat")
    return found


def cmrxrecon_slices(cine: CineFiles) -> int:
    """How many slices a cine has."""
    with damaged_hdf5(cine.full), h5py.File(cine.full, "r") as file:
        return int(file[f"kspace_{cine.middle}full"].shape[1])


def cmrxrecon_kspace(path: Path, variable: str, slices: Sequence[int] | None = None
                     ) -> Complex[Tensor, "time coil slice y x"]:
    """Some slices of one k-space of a CMRxRecon file; None for all of them.

    Raises FormatError for a file without that variable, or of other axes.
    """
    with damaged_hdf5(path), h5py.File(path, "r") as file:
        stored = file.get(variable)
        single = "single" in variable
        if not isinstance(stored, h5py.Dataset) or stored.ndim != (4 if single else 5) or stored.dtype.names != (
                "real", "imag"):
            raise FormatError(f"{path.name} without {variable}", remedy="take the files of the challenge unchanged",
                              expected="complex (kx, ky, coil, slice, frame), stored by MATLAB 7.3")
        require_plausible(stored.shape, 8, path.stat().st_size, ratio=1100.0, what=".mat file")
        chosen = list(range(stored.shape[1])) if slices is None else list(slices)
        parts = stored[:, chosen]
    data = parts["real"].astype(np.float32) + 1j * parts["imag"].astype(np.float32)
    data = data[:, :, None] if single else data  # time, slice, coil, y, x
    return torch.from_numpy(data.astype(np.complex64)).movedim(1, 2)


def cmrxrecon_record(cine: CineFiles, acceleration: int, slices: Sequence[int]) -> KSpace:
    """Undersampled slices of a cine as a record, lines along y, with the challenge's own mask.

    Raises FormatError where mask and data do not fit.
    """
    path = cine.undersampled(acceleration)
    if not path.is_file():
        raise InputError(f"no {path.parent.parent.name}/{path.parent.name}/{path.name}", remedy="unpack that "
                         "acceleration too", expected="the undersampled cine beside the full one")
    data = cmrxrecon_kspace(path, f"kspace_{cine.middle}sub{acceleration:02d}", slices)[None]
    with damaged_hdf5(path), h5py.File(path.with_name(f"{path.stem}_mask.mat"), "r") as file:
        mask = torch.from_numpy(np.asarray(file[f"mask{acceleration:02d}"][()]) != 0)  # stored (ky, kx)
    if mask.shape != data.shape[-2:] or not bool((mask == mask[:, :1]).all()):
        raise FormatError(f"a CMRxRecon mask of {tuple(mask.shape)}", expected=f"{tuple(data.shape[-2:])}, whole lines",
                          remedy="take the files of the challenge unchanged")
    lines = mask[:, 0].reshape(1, 1, 1, 1, -1, 1)
    return KSpace(Rows.subjects(1), data * lines, Grid.pixels(tuple(data.shape[-3:])), lines)
