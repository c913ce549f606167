"""restore slices, superres, denoise, gibbs, bias."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from firstread.cli.options import Out, Overwrite, Seed, numbers, say

restore = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
Series = Annotated[str | None, typer.Option(help="Which series of a DICOM folder (number, UID or description).")]


@restore.callback()
def restoring() -> None:
    """Make a better image of images."""


@restore.command("slices")
def restore_slices(
    stacks: Annotated[list[Path], typer.Argument(metavar="STACK...", help="Two or more stacks of slices of one moving "
                                                 "body: NIfTI files, DICOM folders; or one DICOM folder with --series "
                                                 "for each stack.")],
    output: Out,
    mask: Annotated[Path | None, typer.Option(help="Mask of what moves as one, drawn on one of the stacks.")] = None,
    resolution_mm: Annotated[float, typer.Option(help="Voxel size of the volume.")] = 0.8,
    method: Annotated[Literal["voxels", "field"], typer.Option(help="voxels: super-resolution; field: a small network "
                                                               "of position, fitted to this case.")] = "voxels",
    thickness_mm: Annotated[float | None, typer.Option(min=0.1, help="Slice thickness where files state none; default: "
                                                       "the distance of slices.")] = None,
    iterations: Annotated[int, typer.Option(min=1, help="How often slices are placed anew.")] = 4,
    robust: Annotated[bool, typer.Option(help="Weigh pixels and slices by how well they fit.")] = True,
    bias: Annotated[bool, typer.Option(help="Estimate a bias field per slice.")] = True,
    patch_mm: Annotated[float, typer.Option(min=0, help="Move patches of this size on their own; 0: whole "
                                            "slices.")] = 0.0,
    series: Annotated[list[str], typer.Option(help="A series of the DICOM folder (number, UID or description) that is "
                                              "a stack; give one for each.")] = [],  # noqa: B006
    overwrite: Overwrite = False,
) -> None:
    """Slice-to-volume: stacks with motion in; volume.nii.gz, slices.json and a page out."""
    from firstread.jobs.restore import SliceSettings, restore_slices_to_folder

    settings = SliceSettings(resolution_mm=resolution_mm, method=method, thickness_mm=thickness_mm,
                             iterations=iterations, robust=robust, bias=bias, patch_mm=patch_mm)
    made = restore_slices_to_folder(stacks, output, mask, settings, series=series, overwrite=overwrite, progress=say)
    say(f"{output / 'page.html'}  ({made.seconds:.0f} s)")


ImageIn = Annotated[Path, typer.Argument(metavar="INPUT", help="Images: NIfTI, DICOM file or folder.")]


@restore.command("superres")
def restore_superres(
    stack: Annotated[Path, typer.Argument(metavar="STACK", help="A stack of thick slices, a cine too: NIfTI, DICOM "
                                          "folder.")],
    output: Out,
    view: Annotated[list[Path], typer.Option(help="Long-axis view of the same body and phases; may be given "
                                             "several times.")] = [],  # noqa: B006
    factor: Annotated[int | None, typer.Option(help="Voxels per slice, 2 to 16; default: nearest to the pixels in "
                                               "plane, at most 8.")] = None,
    thickness: Annotated[float | None, typer.Option("--thickness", "--thickness-mm", min=0.1, help="Slice thickness in "
                                                    "mm without the gap; default: the file's. NIfTI states none.")
                         ] = None,
    method: Annotated[Literal["model", "cubic", "linear", "learned"] | None, typer.Option(
        help="Default: with --view model (least squares with the slice profile), else cubic interpolation.")] = None,
    weight: Annotated[Path | None, typer.Option(help="Of --method learned: the .safetensors of `firstread train "
                                                "heart-superres`.")] = None,
    spacing: Annotated[str | None, typer.Option(help="Voxel spacing z,y,x in mm, where the file has none.")] = None,
    series: Series = None,
    overwrite: Overwrite = False,
) -> None:
    """Thick slices to a nearly isotropic volume: image.nii.gz and a page with before and after out."""
    from firstread.jobs.restore_superres import SuperResSettings, restore_superres_to_folder

    settings = SuperResSettings(factor=factor, thickness_mm=thickness, method=method, weight=weight,
                                spacing_mm=numbers(spacing), series=series)
    made = restore_superres_to_folder(stack, output, view, settings, overwrite=overwrite, progress=say)
    say(f"{output / 'page.html'}  ({made.seconds:.0f} s)")


@restore.command("denoise")
def restore_denoise(
    image: ImageIn,
    output: Out,
    method: Annotated[str, typer.Option(help="tv: total variation; pca: local PCA of a series (2 frames or more); "
                                        "noise2self: a network trained on this image; network: a trained one.")] = "tv",
    noise: Annotated[float | None, typer.Option(min=0, help="Standard deviation of the noise, for tv and network; "
                                                "default: estimated.")] = None,
    rician: Annotated[bool, typer.Option("--rician", help="Magnitude images: correct what noise adds where it is "
                                         "dark.")] = False,
    weight: Annotated[str, typer.Option(help="Weight of the network, a name of `firstread zoo` or a "
                                          ".safetensors file.")] = "denoise",
    series: Series = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
) -> None:
    """Less noise: image.nii.gz and a page with before and after out."""
    from firstread.jobs.restore_image import restore_image_to_folder

    made = restore_image_to_folder(image, output, "denoise", method=method, noise=noise, rician=rician, weight=weight,
                                   series=series, seed=seed, overwrite=overwrite, progress=say)
    say(f"{output / 'page.html'}  ({made.seconds:.0f} s)")


@restore.command("gibbs")
def restore_gibbs(image: ImageIn, output: Out, series: Series = None, overwrite: Overwrite = False) -> None:
    """Gibbs ringing removed by local subvoxel shifts; for images without zero filling or partial Fourier."""
    from firstread.jobs.restore_image import restore_image_to_folder

    made = restore_image_to_folder(image, output, "gibbs", series=series, overwrite=overwrite, progress=say)
    say(f"{output / 'page.html'}  ({made.seconds:.0f} s)")


@restore.command("bias")
def restore_bias(
    image: ImageIn,
    output: Out,
    mask: Annotated[Path | None, typer.Option(help="Where the body is, on the grid of the image; default: what is "
                                              "bright.")] = None,
    series: Series = None,
    overwrite: Overwrite = False,
) -> None:
    """Slow shading removed (N4)."""
    from firstread.jobs.restore_image import restore_image_to_folder

    made = restore_image_to_folder(image, output, "bias", mask=mask, series=series, overwrite=overwrite, progress=say)
    say(f"{output / 'page.html'}  ({made.seconds:.0f} s)")
