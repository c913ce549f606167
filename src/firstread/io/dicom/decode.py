"""Compressed pixels through the codecs, and those of codecs that can crash in a process of their own.

``python -m firstread.io.dicom.decode`` reads lines of JSON ``[path, syntax, frames]`` and writes arrays to
standard output. It does not import torch, so that it starts quickly.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset

from firstread.io.dicom.stream import BoundedReader

# One codec for each transfer syntax: where it fails the file is damaged, and no other is tried.
PLUGINS = {
    "1.2.840.10008.1.2.5": "pylibjpeg", "1.2.840.10008.1.2.4.90": "pylibjpeg", "1.2.840.10008.1.2.4.91": "pylibjpeg",
    "1.2.840.10008.1.2.4.201": "pylibjpeg", "1.2.840.10008.1.2.4.202": "pylibjpeg",
    "1.2.840.10008.1.2.4.203": "pylibjpeg", "1.2.840.10008.1.2.4.80": "pyjpegls", "1.2.840.10008.1.2.4.81": "pyjpegls",
    "1.2.840.10008.1.2.4.50": "pillow", "1.2.840.10008.1.2.4.51": "gdcm", "1.2.840.10008.1.2.4.57": "gdcm",
    "1.2.840.10008.1.2.4.70": "gdcm",
}
APART = ("gdcm",)  # ends the process over damaged data
HOLDING = ("pylibjpeg", "pyjpegls")  # keep Python's lock while they decode, so that threads do not help


def decode_frames(path: Path, syntax: str, frames: Sequence[int]) -> list[np.ndarray]:
    """Frames of one file, ``[y, x]`` or ``[y, x, rgb]``; palettes become 8-bit RGB.

    Raises what pydicom and its codecs raise.
    """
    with BoundedReader(path) as stream:
        dataset = pydicom.dcmread(stream, force=True)
    if "TransferSyntaxUID" not in dataset.file_meta:
        dataset.file_meta.TransferSyntaxUID = syntax
    plugin = PLUGINS.get(syntax, "")
    decoded = [pydicom.pixels.pixel_array(dataset, index=frame, decoding_plugin=plugin) for frame in frames]
    palette = dataset.get("PhotometricInterpretation") == "PALETTE COLOR"
    return [_coloured(pixels, dataset) for pixels in decoded] if palette else decoded


def decode_rle(stored: bytes, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """One grey RLE frame ``[y, x]`` of native words.

    Raises what the codec raises.
    """
    from rle.rle import decode_frame

    words = decode_frame(stored, shape[0] * shape[1], 8 * dtype.itemsize, "<")
    return np.frombuffer(words, dtype=dtype.newbyteorder("<")).reshape(shape)


def decode_apart(jobs: Sequence[tuple[Path, str, Sequence[int]]]) -> list[list[np.ndarray]]:
    """The frames of several files, decoded in a child process.

    Raises RuntimeError with the child's reason, or where it ended early.
    """
    lines = "\n".join(json.dumps([str(path), syntax, list(frames)]) for path, syntax, frames in jobs)
    with subprocess.Popen([sys.executable, "-m", __name__], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          stderr=subprocess.DEVNULL) as child:
        assert child.stdin is not None and child.stdout is not None
        child.stdin.write(lines.encode())
        child.stdin.close()
        try:
            return [[_received(child.stdout) for _ in frames] for _, _, frames in jobs]
        finally:
            child.stdout.close()


def _received(stream) -> np.ndarray:
    size = int.from_bytes(stream.read(8), "little")
    head = stream.read(size)
    if size == 0 or len(head) < size:
        raise RuntimeError("the codec ended early")
    told = json.loads(head)
    if "error" in told:
        raise RuntimeError(told["error"])
    array = np.empty(told["shape"], dtype=told["dtype"])
    if stream.readinto(memoryview(array).cast("B")) != array.nbytes:
        raise RuntimeError("the codec ended early")
    return array


def _coloured(pixels: np.ndarray, dataset: Dataset) -> np.ndarray:
    """Palette entries as 8-bit RGB."""
    coloured = pydicom.pixels.apply_color_lut(pixels, dataset)[..., :3]
    return (coloured >> 8).astype(np.uint8) if coloured.dtype.itemsize == 2 else coloured


def _send(told: dict, array: np.ndarray | None = None) -> None:
    head = json.dumps(told).encode()
    sys.stdout.buffer.write(len(head).to_bytes(8, "little") + head)
    if array is not None:
        sys.stdout.buffer.write(memoryview(array).cast("B"))


def _serve() -> None:
    for line in sys.stdin.read().splitlines():
        path, syntax, frames = json.loads(line)
        try:
            arrays = decode_frames(Path(path), syntax, frames)
        except Exception as error:  # told to the parent, which raises it
            _send({"error": f"{error}"[:2000]})
            return
        for array in arrays:
            _send({"shape": array.shape, "dtype": array.dtype.str}, np.ascontiguousarray(array))


if __name__ == "__main__":
    _serve()
