"""Pixels of many frames into one array: uncompressed and RLE ones straight from the files, the rest through codecs."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pydicom

from firstread.core.errors import FormatError, SignalError, UnsupportedError
from firstread.core.records import Note
from firstread.io.dicom.decode import APART, HOLDING, PLUGINS, decode_apart, decode_frames, decode_rle
from firstread.io.dicom.frames import Frame, Storage

_BLOCK = 8  # frames that a thread takes at once
_WORTH = 24  # files from which on starting a process costs less than it saves
_RLE = "1.2.840.10008.1.2.5"
_COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT", "PALETTE COLOR")


def load(frames: Sequence[Frame], notes: list[Note], *, threads: int = 4) -> np.ndarray:
    """``[frame, channel, y, x]`` rescaled; int16 where rescale keeps integers in its range, else float32.

    Colour becomes three channels of uint8 (or what its bits need); MONOCHROME1 is inverted so that high is bright.

    Errors: UnsupportedError (transfer syntax without a codec), FormatError (damaged pixels), SignalError (NaN).
    """
    kinds = {(f.storage.shape, f.storage.photometric in _COLOUR, f.storage.photometric == "MONOCHROME1")
             for f in frames}
    if len(kinds) > 1:
        raise UnsupportedError("a series that mixes colour, grey or inverted images", expected="one kind",
                               remedy="choose one series (--series)")
    colour = frames[0].storage.photometric in _COLOUR
    inverted = frames[0].storage.photometric == "MONOCHROME1"
    alike = len({f.storage.dtype.newbyteorder("=") for f in frames}) == 1
    if alike and not colour and all(f.storage.offset is not None or _is_plain_rle(f.storage) for f in frames):
        exact = not inverted and fits_int16(frames)
        stored = _direct(frames, threads, exact=exact)
        if exact:
            return stored
    else:
        stored = _through_codecs(frames, 3 if colour else 1, threads)
    if stored.dtype.kind == "f" and not np.isfinite(stored).all():
        raise SignalError("NaN or infinite values in a DICOM image", expected="finite values only",
                          remedy="export it again")
    if inverted:
        stored = _inverted(stored, frames[0].storage)
        notes.append(Note("inverted", "MONOCHROME1 images were inverted, so that high values are bright.", "info"))
    return stored if colour else rescale(stored, np.array([f.slope for f in frames]),
                                         np.array([f.intercept for f in frames]))


def rescale(stored: np.ndarray, slope: np.ndarray, intercept: np.ndarray) -> np.ndarray:
    """``value = slope * stored + intercept``, one pair for each frame; exact in int16 where it fits, else float32.

    >>> rescale(np.full((1, 1, 1, 1), 1000, np.uint16), np.array([1.0]), np.array([-1024.0])).item()
    -24
    """
    if stored.dtype.kind == "f":
        return (stored * slope[:, None, None, None] + intercept[:, None, None, None]).astype(np.float32)
    whole = bool((slope == slope[0]).all() and (intercept == intercept[0]).all()
                 and float(slope[0]).is_integer() and float(intercept[0]).is_integer())
    if whole:
        lowest, highest = int(stored.min()), int(stored.max())
        ends = [int(slope[0]) * value + int(intercept[0]) for value in (lowest, highest)]
        if stored.dtype == np.uint8 and slope[0] == 1 and intercept[0] == 0:
            return stored
        if min(ends) >= -(2**15) and max(ends) < 2**15:
            return _whole(stored, int(slope[0]), int(intercept[0]))
    return stored.astype(np.float32) * slope.astype(np.float32)[:, None, None, None] + intercept.astype(
        np.float32)[:, None, None, None]


def _whole(stored: np.ndarray, slope: int, intercept: int) -> np.ndarray:
    """In place where the stored words have 16 bits: arithmetic modulo 2¹⁶ is exact since the result fits."""
    if stored.dtype.itemsize != 2:
        return (stored.astype(np.int64) * slope + intercept).astype(np.int16)
    words = stored.view(np.int16)
    if slope != 1:
        np.multiply(words, np.int16(slope % 2**16 - 2**16 * (slope % 2**16 >= 2**15)), out=words)
    if intercept != 0:
        np.add(words, np.int16((intercept + 2**15) % 2**16 - 2**15), out=words)
    return words


def _inverted(stored: np.ndarray, storage: Storage) -> np.ndarray:
    if storage.signed or stored.dtype.kind == "f":
        return -1 - stored if stored.dtype.kind == "i" else -stored
    return (np.array(2**storage.stored_bits - 1, dtype=stored.dtype) - stored).astype(stored.dtype)


def _direct(frames: Sequence[Frame], threads: int, *, exact: bool) -> np.ndarray:
    """Grey pixels from the files into the array, where ``exact`` rescaled while each plane is in the cache."""
    dtype = frames[0].storage.dtype.newbyteorder("=")
    volume = np.empty((len(frames), 1, *frames[0].storage.shape), dtype=dtype)

    def work(start: int) -> None:
        for frame, plane in zip(frames[start:start + _BLOCK], volume[start:start + _BLOCK, 0], strict=True):
            _read_into(frame, plane)
            if frame.storage.big_endian:
                plane.byteswap(inplace=True)
            _clear_high_bits(plane, frame.storage.stored_bits)
            if exact:
                _whole(plane, int(frame.slope), int(frame.intercept))

    with ThreadPoolExecutor(max_workers=min(threads, os.cpu_count() or 1)) as pool:
        for _ in pool.map(work, range(0, len(frames), _BLOCK)):
            continue
    return volume.view(np.int16) if exact else volume


def _is_plain_rle(storage: Storage) -> bool:
    """Whether it is one grey RLE frame whose place in the file is known."""
    return (storage.syntax == _RLE and len(storage.fragments) == 1 and storage.samples == 1
            and storage.bits in (8, 16) and storage.photometric in ("MONOCHROME1", "MONOCHROME2"))


def fits_int16(frames: Sequence[Frame]) -> bool:
    """Whether every value that the stored bits can hold is an int16 after a whole-number rescale, in 16-bit words."""
    for storage, slope, intercept in {(f.storage.signature, f.slope, f.intercept) for f in frames}:
        bits, signed, size = storage
        lowest, highest = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
        ends = (slope * lowest + intercept, slope * highest + intercept)
        if (size != 16 or not slope.is_integer() or not intercept.is_integer() or min(ends) < -(2**15)
                or max(ends) >= 2**15):
            return False
    return len({(f.slope, f.intercept) for f in frames}) == 1


def _clear_high_bits(plane: np.ndarray, bits: int) -> None:
    """Bits above BitsStored do not belong to the pixel (old files keep overlays there)."""
    spare = 8 * plane.dtype.itemsize - bits
    if spare and plane.dtype.kind == "u":
        if plane.max() >= 2**bits:
            np.bitwise_and(plane, 2**bits - 1, out=plane)
    elif spare and (plane.min() < -(2 ** (bits - 1)) or plane.max() >= 2 ** (bits - 1)):
        np.right_shift(np.left_shift(plane, spare, out=plane), spare, out=plane)


def _through_codecs(frames: Sequence[Frame], channels: int, threads: int) -> np.ndarray:
    """Stored values ``[frame, channel, y, x]``."""
    files: dict[Path, list[int]] = {}
    for index, frame in enumerate(frames):
        files.setdefault(frame.storage.path, []).append(index)
    decoded: list[np.ndarray | None] = [None] * len(frames)
    for index, pixels in _decoded(frames, list(files.values()), threads):
        decoded[index] = pixels
    return _gathered(decoded, channels, frames[0].storage.shape)


def _gathered(decoded: list[np.ndarray | None], channels: int, shape: tuple[int, int]) -> np.ndarray:
    planes = []
    for pixels in decoded:
        if pixels is None or pixels.shape != ((*shape, channels) if channels > 1 else shape):
            raise FormatError("DICOM pixels of another size than their header says", expected=f"{shape} pixels",
                              remedy="the file is damaged: export it again")
        planes.append(pixels.transpose(2, 0, 1) if channels > 1 else pixels[None])
    return np.stack(planes)


def _read_into(frame: Frame, plane: np.ndarray) -> None:
    """The frame's bytes from the file into ``plane``, decoded where they are RLE."""
    storage = frame.storage
    descriptor = os.open(storage.path, os.O_RDONLY)
    try:
        if storage.offset is None:
            with _codec_errors(_RLE):
                offset, length = storage.fragments[0]
                plane[...] = decode_rle(os.pread(descriptor, length, offset), plane.shape, plane.dtype)
            return
        offset, view, done = storage.offset + frame.index * plane.nbytes, memoryview(plane).cast("B"), 0
        while done < plane.nbytes:
            read = os.preadv(descriptor, [view[done:]], offset + done)
            if not read:
                raise FormatError(f"{storage.path.name}, a cut-off DICOM file",
                                  expected=f"{plane.nbytes} bytes of pixels in each frame",
                                  remedy="copy it again")
            done += read
    finally:
        os.close(descriptor)


def _decoded(frames: Sequence[Frame], groups: list[list[int]], threads: int) -> list[tuple[int, np.ndarray]]:
    """(index, pixels) of all frames, ``groups`` of which share a file."""
    jobs = [(frames[g[0]].storage.path, frames[g[0]].storage.syntax, [frames[i].index for i in g]) for g in groups]
    with _codec_errors(frames[0].storage.syntax):
        workers = min(threads, os.cpu_count() or 1)
        if any(PLUGINS.get(syntax) in APART for _, syntax, _ in jobs):
            done = decode_apart(jobs)
        elif workers > 1 and len(jobs) >= _WORTH and all(PLUGINS.get(syntax) in HOLDING for _, syntax, _ in jobs):
            done = _in_processes(jobs, workers)
        else:
            with ThreadPoolExecutor(max_workers=workers) as pool:
                done = list(pool.map(lambda job: decode_frames(*job), jobs))
    return [pair for group, pixels in zip(groups, done, strict=True) for pair in zip(group, pixels, strict=True)]


def _in_processes(jobs: list[tuple[Path, str, list[int]]], workers: int) -> list[list[np.ndarray]]:
    """Every ``workers``-th job in the same child process; the arrays in the order of ``jobs``."""
    with ThreadPoolExecutor(max_workers=workers) as pool:
        shares = list(pool.map(decode_apart, (jobs[first::workers] for first in range(workers))))
    return [shares[index % workers][index // workers] for index in range(len(jobs))]


@contextmanager
def _codec_errors(syntax: str) -> Iterator[None]:
    """Whatever codecs raise, as a FormatError or UnsupportedError."""
    try:
        yield
    except (NotImplementedError, RuntimeError) as error:
        name = pydicom.uid.UID(syntax).name[:80]
        if _has_decoder(syntax) and "does not support" not in str(error):
            raise FormatError(f"DICOM pixels ({name}) that no codec can decode", expected="undamaged pixels",
                              remedy="export the file again, uncompressed if possible") from error
        raise UnsupportedError(f"DICOM pixels in the transfer syntax {name}", expected="uncompressed, RLE, JPEG, "
                               "JPEG-LS or JPEG 2000", remedy="convert it first, as gdcmconv --raw does") from error
    except (PermissionError, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # damaged pixels can raise anything in codecs, a Rust panic too
        raise FormatError("damaged or cut-off DICOM pixels", expected="a complete file",
                          remedy="export or copy it again") from error


def _has_decoder(syntax: str) -> bool:
    try:
        return pydicom.pixels.get_decoder(pydicom.uid.UID(syntax)).is_available
    except NotImplementedError:
        return False
