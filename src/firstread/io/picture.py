"""PNG and JPEG: pixels without millimetres."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from firstread.core.errors import FormatError, InputError
from firstread.core.geometry import Grid
from firstread.core.records import Image, Note, Rows
from firstread.io.arrays import as_tensor

LARGEST_PIXELS = 2**28


def read(path: Path, *, spacing_mm: tuple[float, float, float] | None = None) -> Image:
    """A picture as an Image: one channel (grey) or three (colour), frame ``none`` unless a spacing is stated.

    Errors: FormatError for a damaged file, InputError for one of more than 2²⁸ pixels.
    """
    from PIL import Image as Pillow
    from PIL import UnidentifiedImageError

    try:
        with Pillow.open(path, formats=("PNG", "JPEG")) as picture:
            if picture.width * picture.height > LARGEST_PIXELS:
                raise InputError(f"a picture of {picture.width} x {picture.height} pixels", expected="at most 2^28 "
                                 "pixels", remedy="cut it")
            wide = picture.mode.startswith("I") or picture.mode == "F"
            grey = picture.mode in ("1", "L", "LA")
            pixels = np.asarray(picture if wide else picture.convert("L" if grey else "RGB"))
    except (UnidentifiedImageError, Pillow.DecompressionBombError, SyntaxError, ValueError, OSError) as error:
        if isinstance(error, PermissionError):
            raise
        raise FormatError("a damaged or cut-off picture", expected="a complete PNG or JPEG file",
                          remedy="export it again") from error
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    data = as_tensor(pixels.transpose(2, 0, 1)[None, None, :, None])
    shape = (1, pixels.shape[0], pixels.shape[1])
    if spacing_mm is not None:
        stated = Note("spacing_stated", "The spacing was stated by the user, not taken from the file.", "info")
        return Image(Rows.subjects(1), data, Grid.from_spacing(shape, spacing_mm, frame="detector"), notes=(stated,))
    return Image(Rows.subjects(1), data, Grid.pixels(shape), notes=(
        Note("spacing_unknown", "A picture states no spacing: nothing in mm or mL can be measured."),))
