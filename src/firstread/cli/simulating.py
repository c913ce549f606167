"""simulate heart, ct, pet."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from firstread.cli.options import Out, Overwrite, Seed, say, sizes

simulate = typer.Typer(no_args_is_help=True, rich_markup_mode=None)


@simulate.command("heart")
def simulate_heart(
    output: Out,
    subjects: Annotated[int, typer.Option(min=1)] = 1,
    family: Annotated[str, typer.Option(help="train, calibration or test: disjoint subjects; test differs in "
                                        "shape.")] = "test",
    pathology: Annotated[str | None, typer.Option(help="normal, dilated, hypertrophic, infarct, rv_disease; default: "
                                                  "mixed.")] = None,
    acceleration: Annotated[float, typer.Option(min=1)] = 6.0,
    coils: Annotated[int, typer.Option(min=1)] = 8,
    snr: Annotated[float, typer.Option(min=0.1, help="Signal of blood over noise, per coil-combined pixel.")] = 30.0,
    matrix: Annotated[str, typer.Option(help="Pixels y,x of the scan; the field of view is 240 mm wide.")] = "160,160",
    frames: Annotated[int, typer.Option(min=2, help="Per heart cycle.")] = 20,
    slices: Annotated[int | None, typer.Option(min=1, help="From the base on; default: what covers the heart.")] = None,
    complex_parts: Annotated[bool, typer.Option("--complex", help="Write real and imaginary part of the true image "
                                                "too.")] = False,
    seed: Seed = 0,
    overwrite: Overwrite = False,
) -> None:
    """Phantom hearts: ISMRMRD k-space, NIfTI truth and truth.json, a folder each."""
    from firstread.simulate import HeartScan, simulate_hearts

    scan = HeartScan(matrix=sizes(matrix) or (), frames=frames, slices=slices)
    simulate_hearts(output, subjects=subjects, family=family, pathology=pathology, acceleration=acceleration,
                    coils=coils, snr=snr, seed=seed, scan=scan, complex_parts=complex_parts, overwrite=overwrite,
                    progress=say)


Views = Annotated[int, typer.Option(min=1, help="Over a whole turn (fan) or half of one (parallel).")]
Pixels = Annotated[int, typer.Option(min=8, help="Pixels of the image along y and x; about as many detector bins.")]


@simulate.command("ct")
def simulate_ct(
    output: Out,
    subjects: Annotated[int, typer.Option(min=1)] = 1,
    phantom: Annotated[Literal["thorax", "shepp-logan", "ellipses"], typer.Option(help="All but shepp-logan differ "
                                                                                  "with the seed.")] = "thorax",
    beam: Annotated[Literal["fan", "parallel"], typer.Option()] = "fan",
    views: Views = 360,
    matrix: Pixels = 256,
    photons: Annotated[float, typer.Option(min=0, help="Per ray without an object; 0: no noise.")] = 1e5,
    seed: Seed = 0,
    overwrite: Overwrite = False,
) -> None:
    """CT of analytic phantoms: rays.h5 for `firstread reconstruct`, the true image and truth.json, a folder each."""
    from firstread.jobs.simulate_rays import ScanSettings
    from firstread.jobs.simulate_rays import simulate_ct as simulated

    simulated(output, subjects=subjects, phantom=phantom, scan=ScanSettings(beam=beam, views=views, matrix=matrix),
              photons=photons or None, seed=seed, overwrite=overwrite, progress=say)


@simulate.command("pet")
def simulate_pet(
    output: Out,
    subjects: Annotated[int, typer.Option(min=1)] = 1,
    views: Views = 180,
    matrix: Pixels = 128,
    counts: Annotated[float, typer.Option(min=1, help="Expected true coincidences.")] = 1e6,
    randoms: Annotated[float, typer.Option(min=0, help="As a share of them.")] = 0.4,
    scatter: Annotated[float, typer.Option(min=0, help="As a share of them.")] = 0.3,
    seed: Seed = 0,
    overwrite: Overwrite = False,
) -> None:
    """PET of hot and cold discs: rays.h5 for `firstread reconstruct`, true activity, labels and truth.json."""
    from firstread.jobs.simulate_rays import ScanSettings
    from firstread.jobs.simulate_rays import simulate_pet as simulated

    simulated(output, subjects=subjects, scan=ScanSettings(beam="parallel", views=views, matrix=matrix), counts=counts,
              randoms=randoms, scatter=scatter, seed=seed, overwrite=overwrite, progress=say)
