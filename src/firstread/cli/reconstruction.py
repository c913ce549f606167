"""reconstruct, evidence."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from firstread.cli.options import Overwrite, Seed, Variable, numbers, say, sizes


class Mask(StrEnum):
    random = "random"
    equispaced = "equispaced"


def reconstruct(
    source: Annotated[Path | None, typer.Argument(metavar="INPUT", help="ISMRMRD, fastMRI, BART, .mat, .npy or Siemens "
                                                  "twix file; a file of rays (CT, PET).")] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Folder for the result.")] = None,
    method: Annotated[str | None, typer.Option(help="A name of --list-methods; absent: cs, of CT fbp, of PET "
                                               "osem.")] = None,
    regularization: Annotated[str | None, typer.Option(help="A number, sure, discrepancy or l-curve; absent: "
                                                       "sure, of CT and PET the method's default.")] = None,
    trajectory: Annotated[Path | None, typer.Option(help="Places of samples along a trajectory, in cycles per field of "
                                                    "view: .npy or .mat (shot, sample, yx), BART .cfl.")] = None,
    matrix: Annotated[str | None, typer.Option(help="Image size y,x or z,y,x along a trajectory.")] = None,
    axes: Annotated[str | None, typer.Option(help="Axes of a .npy or .mat array, such as coil,y,x.")] = None,
    variable: Variable = None,
    spacing: Annotated[str | None, typer.Option(help="Voxel spacing z,y,x in mm, where the file has none.")] = None,
    complex_parts: Annotated[bool, typer.Option("--complex", help="Write real and imaginary part too.")] = False,
    identify: Annotated[bool, typer.Option("--identify", help="Keep the patient's name in DICOM.")] = False,
    list_methods: Annotated[bool, typer.Option("--list-methods", help="Show the methods.")] = False,
    seed: Seed = 0,
    overwrite: Overwrite = False,
) -> None:
    """Reconstruct raw data of MR, CT or PET: image.nii.gz, a page and, where the header allows it, DICOM MR."""
    from firstread.core.errors import InputError

    if list_methods:
        from firstread.chains.rays import ray_methods_table
        from firstread.chains.reconstruct import methods_table

        typer.echo(f"{methods_table()}\n{ray_methods_table()}")
        return
    if source is None or output is None:
        raise InputError("no input or no output folder", expected="firstread reconstruct INPUT -o DIR",
                         remedy="see `firstread reconstruct --help`")
    from firstread.jobs.reconstruct import Settings, reconstruct_to_folder

    settings = Settings(method=method, regularization=regularization, trajectory=trajectory, matrix=sizes(matrix),
                        axes=axes, variable=variable, spacing_mm=numbers(spacing), complex_parts=complex_parts,
                        identify=identify, seed=seed)
    made = reconstruct_to_folder(source, output, settings, overwrite=overwrite, progress=say)
    say(f"{output / 'page.html'}  ({made.seconds:.1f} s)")


evidence = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
Volumes = Annotated[int | None, typer.Option(min=1, help="Only so many, the first by name.")]


@evidence.command("fastmri")
def evidence_fastmri(
    folder: Annotated[Path, typer.Argument(metavar="PATH", help="A folder such as multicoil_val.")],
    method: Annotated[list[str], typer.Option(help="May be given several times.")] = ["zero-filled", "cs"],  # noqa: B006
    acceleration: Annotated[list[int], typer.Option(help="4 or 8.")] = [4, 8],  # noqa: B006
    mask: Annotated[Mask, typer.Option()] = Mask.random,
    volumes: Volumes = None,
) -> None:
    """NMSE, PSNR and SSIM on fastMRI, by its masks and definitions."""
    from firstread.jobs.evidence import fastmri_table

    typer.echo(fastmri_table(folder, method, acceleration, mask=mask.value, volumes=volumes, progress=say))


@evidence.command("cmrxrecon")
def evidence_cmrxrecon(
    folder: Annotated[Path, typer.Argument(metavar="PATH", help="The folder of the challenge data of 2023.")],
    method: Annotated[list[str], typer.Option(help="May be given several times.")] = ["zero-filled", "cs"],  # noqa: B006
    acceleration: Annotated[list[int], typer.Option(help="4, 8 or 10.")] = [4, 8, 10],  # noqa: B006
    volumes: Volumes = None,
) -> None:
    """NMSE, PSNR and SSIM on the cines of CMRxRecon 2023, as the challenge ranks them."""
    from firstread.jobs.evidence import cmrxrecon_table

    typer.echo(cmrxrecon_table(folder, method, acceleration, volumes=volumes, progress=say))
