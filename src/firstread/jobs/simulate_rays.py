"""``firstread simulate ct|pet``: phantoms of ellipses to files of rays with their truth, a folder for each subject.

The rays are the exact line integrals of the ellipses, averaged over the width of a bin: no pixels are projected.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from firstread.acquire.ct import low_dose
from firstread.acquire.ellipses import draw_ellipses, measure_ellipses, random_ellipses, random_thorax, shepp_logan
from firstread.acquire.pet import spread
from firstread.acquire.uptake import uptake_phantom
from firstread.core.emission import Emission
from firstread.core.errors import SettingError
from firstread.core.geometry import Grid
from firstread.core.keys import Key
from firstread.core.records import HardLabels, Image, Rows
from firstread.core.sinogram import Beam, FanBeam, ParallelBeam, Sinogram
from firstread.io.folder import new_folder
from firstread.io.nifti import write_image, write_labels
from firstread.io.rays import write_rays
from firstread.ops.attenuation import WATER_511_PER_MM, WATER_PER_MM, hounsfield
from firstread.simulate import MARKER

Phantom = Literal["thorax", "shepp-logan", "ellipses"]
RADIUS_MM, ELECTRONIC, SCATTER_MM, RESOLUTION_MM = 150.0, 5.0, 60.0, 4.0
Progress = Callable[[str], None]


@dataclass(frozen=True)
class ScanSettings:
    """beam: parallel or fan (540 mm to the centre, 950 mm to an arc of a detector); views: over half a turn (parallel)
    or a whole one; matrix: pixels of the image along y and x, and about as many bins."""

    beam: Literal["parallel", "fan"] = "fan"
    views: int = 360
    matrix: int = 256

    def geometry(self) -> tuple[Beam, Grid]:
        """The beam and the grid of the image: a field of 320 mm."""
        if self.beam not in ("parallel", "fan") or self.views < 1 or self.matrix < 8:
            raise SettingError(f"{self.beam!r} beam, {self.views} views, {self.matrix} pixels",
                               expected="parallel or fan, one view or more, 8 pixels or more",
                               remedy="correct the option")
        pixel = 2 * 160.0 / self.matrix
        grid = Grid.from_spacing((1, self.matrix, self.matrix), (5.0, pixel, pixel))
        if self.beam == "parallel":
            return ParallelBeam.uniform(views=self.views, bins=self.matrix, bin_mm=pixel), grid
        bins = round(1.1 * self.matrix)
        return FanBeam.uniform(views=self.views, bins=bins, bin_mm=2 * 950.0 * 0.31 / bins, source_mm=540.0,
                               detector_mm=950.0), grid


def simulate_ct(folder: Path, *, subjects: int = 1, phantom: Phantom = "thorax", scan: ScanSettings | None = None,
                photons: float | None = 1e5, seed: int = 0, overwrite: bool = False,
                progress: Progress = lambda text: None) -> list[Path]:
    """Write ``rays.h5``, ``truth_image.nii.gz`` (HU) and ``truth.json`` for each subject; subject i has seed + i.

    photons: per ray without an object, or None for no noise. Raises OutputError, SettingError.
    """
    scan = scan or ScanSettings()
    beam, grid = scan.geometry()
    if phantom not in get_args(Phantom) or (photons is not None and not photons > 0):
        raise SettingError(f"phantom {phantom!r}, {photons} photons", expected="one of "
                           f"{', '.join(get_args(Phantom))}; photons above zero", remedy="correct the option")

    def write(work: Path, number: int) -> None:
        ellipses = _object(phantom, Key(number, "simulate_ct").generator())
        clean = _six(measure_ellipses(ellipses, beam) * WATER_PER_MM)
        data, weights = (clean, None) if photons is None else low_dose(clean, Rows.subjects(1), Key(number, "dose"),
                                                                       photons, ELECTRONIC)
        write_rays(work / "rays.h5", Sinogram(Rows.subjects(1), data, grid, beam, weights))
        truth = hounsfield(draw_ellipses(ellipses, grid) * WATER_PER_MM)
        write_image(work / "truth_image.nii.gz", Image(Rows.subjects(1), _six(truth), grid))
        _write_json(work / "truth.json", {
            "phantom": phantom, "seed": number, "beam": beam.summary, "photons": photons, "water_per_mm": WATER_PER_MM,
            "ellipses": ellipses.tolist(), "columns": "attenuation relative to water, half axes x and y, centre x and "
            "y in mm, turn in rad; they add"})

    about = {"what": "simulated CT scans with known truth", "phantom": phantom, "beam": beam.summary,
             "photons": photons, "seed": seed}
    return _subjects(folder, subjects, seed, about, write, overwrite, progress)


def simulate_pet(folder: Path, *, subjects: int = 1, scan: ScanSettings | None = None, counts: float = 1e6,
                 randoms: float = 0.4, scatter: float = 0.3, seed: int = 0, overwrite: bool = False,
                 progress: Progress = lambda text: None) -> list[Path]:
    """Write ``rays.h5``, ``truth_image.nii.gz`` (Bq/mL), ``truth_labels.nii.gz`` (discs) and ``truth.json``.

    counts: expected true coincidences of the slice; randoms, scatter: as shares of them, known to the reconstruction.
    The detector blurs by 4 mm (full width at half maximum), which the reconstruction does not model. Raises
    OutputError, SettingError.
    """
    scan = scan or ScanSettings(beam="parallel", views=180, matrix=128)
    beam, grid = scan.geometry()
    if scan.beam != "parallel" or not counts > 0 or min(randoms, scatter) < 0:
        raise SettingError(f"{scan.beam} beam, {counts} counts, randoms {randoms}, scatter {scatter}",
                           expected="a parallel beam, counts above zero, shares of zero or more",
                           remedy="correct the option")

    def write(work: Path, number: int) -> None:
        made = uptake_phantom(Key(number, "simulate_pet").generator(), radius_mm=RADIUS_MM * 0.9)
        factors = torch.exp(-WATER_511_PER_MM * measure_ellipses(made.body, beam))
        trues = factors * spread(measure_ellipses(made.activity, beam), RESOLUTION_MM / 2.355 / beam.bin_mm)
        scale = counts / float(trues.sum())
        factors, trues = scale * factors, scale * trues
        background = randoms * trues.mean() + scatter * spread(trues, SCATTER_MM / beam.bin_mm)
        prompts = torch.poisson(trues + background, generator=Key(number, "counts").generator())
        write_rays(work / "rays.h5", Emission(Rows.subjects(1), _six(prompts), grid, beam, _six(factors),
                                              _six(background)))
        truth = draw_ellipses(made.activity, grid)
        write_image(work / "truth_image.nii.gz", Image(Rows.subjects(1), _six(truth), grid))
        names = tuple(f"disc {d:g} mm" for d, *_ in made.discs)
        labels = torch.zeros_like(truth)
        for n, (d, x, y, _) in enumerate(made.discs):
            labels[draw_ellipses(torch.tensor([[1, d / 2, d / 2, x, y, 0]]), grid) > 0.5] = n + 1
        write_labels(work / "truth_labels.nii.gz", HardLabels(Rows.subjects(1), _six(labels).to(torch.uint8), grid,
                                                              ("background", *names)))
        _write_json(work / "truth.json", {
            "seed": number, "beam": beam.summary, "counts": counts, "randoms": randoms, "scatter": scatter,
            "background_bq_ml": made.background_bq_ml,
            "discs": [{"label": n + 1, "diameter_mm": d, "x_mm": x, "y_mm": y, "ratio": ratio}
                      for n, (d, x, y, ratio) in enumerate(made.discs)]})

    about = {"what": "simulated PET scans with known truth", "beam": beam.summary, "counts": counts,
             "randoms": randoms, "scatter": scatter, "seed": seed}
    return _subjects(folder, subjects, seed, about, write, overwrite, progress)


def _object(phantom: Phantom, generator: torch.Generator) -> Tensor:
    if phantom == "shepp-logan":
        return shepp_logan(RADIUS_MM)
    return random_thorax(generator, RADIUS_MM) if phantom == "thorax" else random_ellipses(generator, RADIUS_MM)


def _subjects(folder: Path, count: int, seed: int, about: dict[str, Any], write: Callable[[Path, int], None],
              overwrite: bool, progress: Progress) -> list[Path]:
    names = [f"subject-{seed + i:04d}" for i in range(count)]
    with new_folder(folder, marker=MARKER, overwrite=overwrite) as work:
        for i, name in enumerate(names):
            progress(f"{name} ({i + 1} of {count})")
            (work / name).mkdir()
            write(work / name, seed + i)
        _write_json(work / MARKER, {**about, "subjects": names})
    return [folder / name for name in names]


def _six(plane: Tensor) -> Tensor:
    return plane.float()[None, None, None, None]


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1), encoding="utf-8")
