"""register, warp, track, template."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from firstread.cli.options import Out, Overwrite, numbers, say


def register(
    fixed: Annotated[Path, typer.Argument(metavar="FIXED", help="The image that stays: NIfTI, DICOM file or folder.")],
    moving: Annotated[Path, typer.Argument(metavar="MOVING", help="The image that is brought onto it.")],
    output: Out,
    kind: Annotated[Literal["rigid", "affine", "deformable"], typer.Option("--type", help="deformable: a smooth map "
                                                                           "without folds.")] = "deformable",
    first: Annotated[Literal["none", "rigid", "affine"], typer.Option(help="The linear transform before a "
                                                                      "deformation.")] = "affine",
    metric: Annotated[Literal["auto", "mi", "lncc", "ngf"], typer.Option(
        help="mi: mutual information; lncc: local correlation; ngf: edges; auto: mi for what is linear, lncc for a "
             "deformation where the contrasts are alike, else mi.")] = "auto",
    labels: Annotated[Path | None, typer.Option(help="Labels of MOVING, to be warped with it.")] = None,
    fixed_labels: Annotated[Path | None, typer.Option(help="Labels of FIXED: Dice before and after.")] = None,
    spacing: Annotated[str | None, typer.Option(help="Voxel size z,y,x in mm where the files state none.")] = None,
    series: Annotated[str | None, typer.Option(help="Which DICOM series FIXED is: number, UID or description.")] = None,
    moving_series: Annotated[str | None, typer.Option(help="Which DICOM series MOVING is.")] = None,
    frame: Annotated[str | None, typer.Option(help="Which frame of FIXED, from 0, or mean, where it has "
                                              "several.")] = None,
    moving_frame: Annotated[str | None, typer.Option(help="Which frame of MOVING, from 0, or mean.")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Align two images: warped image, transform both ways (ITK, ANTs) and a page out. Nothing is drawn at random."""
    from firstread.jobs.register import RegisterSettings, register_to_folder

    settings = RegisterSettings(kind=kind, first=first, metric=metric, spacing_mm=numbers(spacing), series=series,
                                moving_series=moving_series, frame=frame, moving_frame=moving_frame)
    made = register_to_folder(fixed, moving, output, settings, labels=labels, fixed_labels=fixed_labels,
                              overwrite=overwrite, progress=say)
    say(f"{output / 'page.html'}  ({made.seconds:.0f} s)")


def warp(
    source: Annotated[Path, typer.Argument(metavar="INPUT", help="What lies where the moving image lies: images, "
                                           "labels, or points (.csv with x, y, z in LPS+ mm).")],
    output: Out,
    transform: Annotated[list[Path] | None, typer.Option("-t", "--transform", help="A file of ITK or ANTs, fixed to "
                                                         "moving; several in the order in which ANTs lists "
                                                         "them.")] = None,
    on: Annotated[Path | None, typer.Option("--on", help="The image whose voxels the result has: the fixed "
                                                    "one.")] = None,
    interpolation: Annotated[Literal["linear", "nearest", "onehot"], typer.Option(
        help="linear: images; nearest, onehot: labels (onehot: each label linearly, then the largest).")] = "linear",
    inverse: Annotated[bool, typer.Option("--inverse", help="The other way: INPUT lies where the fixed image "
                                          "lies.")] = False,
    spacing: Annotated[str | None, typer.Option(help="Voxel size z,y,x in mm where the files state none.")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Apply stored transforms to images, labels or points: warped.nii.gz or points.csv, and a page out."""
    from firstread.jobs.warp import WarpSettings, warp_to_folder

    settings = WarpSettings(interpolation=interpolation, inverse=inverse, spacing_mm=numbers(spacing))
    made = warp_to_folder(source, transform or [], on, output, settings, overwrite=overwrite, progress=say)
    say(f"{output / 'page.html'}  ({made.seconds:.0f} s)")


def track(
    cine: Annotated[Path, typer.Argument(metavar="CINE", help="A series: NIfTI, DICOM folder.")],
    output: Out,
    labels: Annotated[Path | None, typer.Option(help="Labels of one frame, carried to all (NIfTI, DICOM SEG); of more "
                                                "frames: the others are compared.")] = None,
    frame: Annotated[int | None, typer.Option(min=0, help="The frame that is followed, from 0; default: the first one "
                                              "with labels.")] = None,
    once: Annotated[bool, typer.Option("--once", help="The last frame is not followed by the first one.")] = False,
    smooth: Annotated[float | None, typer.Option(min=0, help="Smoothing over time in frames; default: 0.5 from 8 "
                                                 "frames on.")] = None,
    weights: Annotated[str | None, typer.Option(help="A network finds the motion, and how sure it is: heart-motion "
                                                "(short-axis hearts), or a .safetensors file; default: optimization "
                                                "on the series itself.")] = None,
    whole: Annotated[bool, typer.Option("--whole", help="Track all of the image, not only around the labels.")] = False,
    fields: Annotated[bool, typer.Option("--fields", help="Write the displacement of every frame (ITK, "
                                                  "ANTs).")] = False,
    spacing: Annotated[str | None, typer.Option(help="Voxel size z,y,x in mm where the files state none.")] = None,
    series: Annotated[str | None, typer.Option(help="Which DICOM series: number, UID or description.")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Follow one frame through a cine: its labels in all frames, a table of motion and strain, and a page out."""
    from firstread.jobs.track import TrackSettings, track_to_folder

    settings = TrackSettings(frame=frame, periodic=not once, smooth_frames=smooth, whole=whole, fields=fields,
                             spacing_mm=numbers(spacing), series=series, weights=weights)
    made = track_to_folder(cine, labels, output, settings, overwrite=overwrite, progress=say)
    say(f"{output / 'page.html'}  ({made.seconds:.0f} s)")


def template(
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Two or more subjects, on any grids; the "
                                                 "first one's grid is the template's.")],
    output: Out,
    first: Annotated[Literal["rigid", "affine"], typer.Option(help="How they are aligned before they are "
                                                              "deformed.")] = "affine",
    rounds: Annotated[int, typer.Option(min=1, help="How often the template is made anew.")] = 3,
    spacing: Annotated[str | None, typer.Option(help="Voxel size z,y,x in mm where the files state none.")] = None,
    overwrite: Overwrite = False,
) -> None:
    """The middle of several subjects: template.nii.gz, each one's transforms into it, and a page out."""
    from firstread.jobs.template import TemplateSettings, template_to_folder

    settings = TemplateSettings(first=first, rounds=rounds, spacing_mm=numbers(spacing))
    made = template_to_folder(images, output, settings, overwrite=overwrite, progress=say)
    say(f"{output / 'page.html'}  ({made.seconds:.0f} s)")
