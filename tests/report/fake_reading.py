"""Made-up readings: rings that contract, notes, absent values, a name that is a script."""

from __future__ import annotations

import torch

from firstread.core.case import Case
from firstread.core.geometry import Grid
from firstread.core.provenance import Step
from firstread.core.reading import Person, Reading
from firstread.core.records import HardLabels, Image, KSpace, Note, Phenotype, Phenotypes, Record, Rows

HEART = ("background", "LV cavity", "LV myocardium", "RV cavity")
SCRIPT = "<script>alert(1)</script>"
NASTY = "</script><img src=x onerror=alert(2)>'\"&{{7*7}}"
METHOD = "normalized split conformal over an ensemble of 3; marginal per phenotype"
NO_ES = "a single frame has no end-systole"


def rings(*, frames: int = 20, slices: int = 8, size: int = 128, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Image and label stacks ``[1, frames, 1, slices, size, size]`` of a heart drawn with circles."""
    generator = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(*[torch.linspace(-1, 1, size)] * 2, indexing="ij")
    labels = torch.zeros(1, frames, 1, slices, size, size, dtype=torch.uint8)
    for t in range(frames):
        squeeze = 0.5 - 0.5 * torch.cos(torch.tensor(2 * torch.pi * t / max(frames, 2)))
        for z in range(slices):
            width = 1 - 0.55 * (z / max(slices - 1, 1)) ** 2
            inner, outer = 0.26 * width * (1 - 0.4 * squeeze), 0.36 * width * (1 - 0.16 * squeeze)
            radius = ((x - 0.1) ** 2 + y**2).sqrt()
            right = (((x + 0.26) / (0.26 * (1 - 0.25 * squeeze))) ** 2 + (y / 0.42) ** 2).sqrt() < width
            labels[0, t, 0, z][right] = 3
            labels[0, t, 0, z][radius < outer] = 2
            labels[0, t, 0, z][radius < inner] = 1
    tissue = torch.tensor([0.22, 1.0, 0.38, 0.95])
    image = tissue[labels.long()] + 0.12 * torch.sin(5 * x) * torch.cos(4 * y)
    body = ((x / 0.92) ** 2 + (y / 0.8) ** 2) < 1
    return image * body + 0.05 * torch.randn(image.shape, generator=generator).abs(), labels


def phenotype(value: float, unit: str, half: float | None = None) -> Phenotype:
    """A number with a symmetric interval."""
    one = torch.tensor([value])
    if half is None:
        return Phenotype(one, unit)
    return Phenotype(one, unit, one - half, one + half, 0.9, METHOD, "simulation")


def phenotypes(*, frames: int = 20, es: int = 10) -> Phenotypes:
    """What a short-axis cine gives; without a second frame, end-systole is absent."""
    values = {
        "LVEDV": phenotype(178.2, "mL", 12.1), "LVESV": phenotype(81.4, "mL", 9.5), "LVSV": phenotype(96.8, "mL", 11.0),
        "LVEF": phenotype(54.3, "%", 4.2), "LVCO": phenotype(6.19, "L/min", 0.7), "LVM": phenotype(131.0, "g", 14.0),
        "RVEDV": phenotype(188.0, "mL", 18.0), "RVESV": phenotype(92.5, "mL", 14.0),
        "RVSV": phenotype(95.5, "mL", 17.0), "RVEF": phenotype(50.8, "%", 6.0), "HR": phenotype(64.0, "1/min"),
        "ED_frame": phenotype(0.0, "frame"), "ES_frame": phenotype(float(es), "frame"),
        "WT_Global": phenotype(8.1, "mm", 0.8),
    }
    for number in range(1, 17):
        values[f"WT_AHA_{number}"] = phenotype(5.2 + 0.45 * number, "mm", 0.9)
    values["WT_AHA_15"] = Phenotype(None, "mm", reason="no endocardial contour falls into this segment")
    curves = {}
    if frames > 1:
        turn = torch.cos(2 * torch.pi * torch.arange(frames) / frames)
        curves = {"LV_volume_ml": (129.8 + 48.4 * turn)[None], "RV_volume_ml": (140.2 + 47.7 * turn)[None]}
    else:
        for name in ("LVESV", "LVSV", "LVEF", "LVCO", "RVESV", "RVSV", "RVEF", "ES_frame", "HR"):
            values[name] = Phenotype(None, values[name].unit, reason=NO_ES)
    return Phenotypes(Rows.subjects(1), values, curves)


def reading(*, frames: int = 20, slices: int = 8, size: int = 128, person: Person | None = None, heart: bool = True,
            raw: bool = False, input_name: str = "short-axis cine", kind: str = "NIfTI") -> Reading:
    """A reading of contracting rings; ``raw`` adds k-space, a zero-filled image and the truth."""
    pixels, classes = rings(frames=frames, slices=slices, size=size)
    grid = Grid.from_spacing((slices, size, size), (8.0, 1.4, 1.4))
    rows = Rows.subjects(1)
    times = torch.linspace(0, 0.94, frames + 1)[:-1].reshape(1, frames, 1)
    image = Image(rows, pixels, grid, times, torch.tensor([[0.94]]),
                  notes=(Note("trigger_times", f"Trigger times were missing, frames are spread evenly. {SCRIPT}"),
                         Note("slice_order", "Slices were sorted from base to apex.", "info")))
    records: dict[str, Record] = {"image": image}
    errors = {}
    if heart:
        records["labels"] = HardLabels(rows, classes, grid, HEART)
        records["phenotypes"] = phenotypes(frames=frames, es=frames // 2)
    if raw:
        records |= raw_records(pixels, grid)
        errors = {"zero-filled PSNR (dB)": 24.92, "zero-filled SSIM": 0.61, "reconstruction PSNR (dB)": 38.21,
                  "reconstruction SSIM": 0.963, "Dice LV cavity": 0.941, "LVEF minus truth (%)": -1.2}
    trail = (Step("segment", f"tile=(192, 192), note='{SCRIPT}'", "9f2c4e11ab037d55", 8.412, 1312.0),
             Step("cardiac_function", "density_g_per_ml=1.05", None, 0.31, 1312.0))
    return Reading(Case(records, seed=20, trail=trail), person or Person(), input_name, kind, "c0ffee" * 10 + "beef",
                   {"firstread": "0.1.0", "torch": "2.13.0"}, 21.7, 1312.0, errors=errors)


def raw_records(pixels: torch.Tensor, grid: Grid) -> dict[str, Record]:
    """K-space of 2 equal coils with every fourth line, its zero-filled image, and the truth."""
    rows = Rows.subjects(1)
    frames, size = pixels.shape[1], pixels.shape[-1]
    mask = torch.zeros(1, frames, 1, 1, size, 1)
    for t in range(frames):
        mask[0, t, 0, 0, t % 4 :: 4] = 1
    mask[..., size // 2 - 4 : size // 2 + 4, :] = 1
    full = torch.fft.fftshift(torch.fft.fft2(torch.fft.ifftshift(pixels, (-2, -1)), norm="ortho"), (-2, -1))
    sampled = full * mask
    zero = torch.fft.fftshift(torch.fft.ifft2(torch.fft.ifftshift(sampled, (-2, -1)), norm="ortho"), (-2, -1))
    return {"kspace": KSpace(rows, sampled.repeat(1, 1, 2, 1, 1, 1), grid, mask),
            "zero_filled": Image(rows, zero, grid),
            "truth.image": Image(rows, pixels * 1.0 + 0.02 * torch.sin(20 * pixels), grid)}
