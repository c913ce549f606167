"""Sampling patterns as files: which phase-encode lines each frame measures, in which order.

    JSON      {"firstread": "lines", "lines": N, "frames": [[...], ...], "order": [[beat, frame, line], ...]}
    BART      NAME.cfl, NAME.hdr: ones and zeros, PHS1 the line, TIME the frame, as ``bart pics -p`` takes it
    ISMRMRD   an acquisition header per line in the order of measurement, samples of zero

In all three the zero frequency is line ``N // 2``; what is written reads back exactly.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import torch
from jaxtyping import Bool, Int, Num
from torch import Tensor

from firstread.core.errors import FormatError, InputError
from firstread.core.reading import Person
from firstread.core.records import KSpace
from firstread.io import ismrmrd, rawdata
from firstread.io import mrd_layout as layout

_LARGEST = 2**16


@dataclass(frozen=True, eq=False)
class Pattern:
    """Lines by frame, and the order of measurement where it is known: rows (beat, frame, line)."""

    mask: Bool[Tensor, "frames lines"]
    order: Int[Tensor, "acquisitions 3"] | None = None


def pattern_of(mask: Num[Tensor, "frames lines"] | Bool[Tensor, "frames lines"],
               order: Int[Tensor, "acquisitions 3"] | None = None) -> Pattern:
    """A checked pattern.

    Raises FormatError for a mask that is not binary or a frame without lines, or an order of other lines than the
    mask's.

    >>> pattern_of(torch.tensor([[1.0, 0.0]])).mask.tolist()
    [[True, False]]
    """
    if not bool(((mask == 0) | (mask == 1)).all()):
        raise FormatError("a sampling pattern with values other than 0 and 1", expected="a binary pattern",
                          remedy="store which lines are measured, not scores or weights")
    binary = mask.detach().cpu() != 0
    empty = (~binary.any(dim=1)).nonzero().flatten().tolist()
    if empty or binary.numel() == 0:
        raise FormatError(f"a sampling pattern without lines in frame {empty[0] if empty else 0}",
                          expected="one line or more in every frame", remedy="add lines or leave the frame out")
    if order is not None:
        steps = order.detach().cpu()
        named = {(int(frame), int(line)) for _, frame, line in steps.tolist()}
        wanted = {(frame, line) for frame, line in binary.nonzero().tolist()}
        if named != wanted or len(named) != len(steps):
            raise FormatError(f"an order of {len(steps)} lines for a pattern of {len(wanted)}",
                              expected="each line of the pattern once", remedy="store the order of these lines")
        order = steps
    return Pattern(binary, order)


def write(path: Path, mask: Num[Tensor, "frames lines"] | Bool[Tensor, "frames lines"], *,
          order: Int[Tensor, "acquisitions 3"] | None = None, samples: int = 1) -> None:
    """Write a pattern: .json, .cfl (with .hdr) or .h5 (ISMRMRD), by the name's ending.

    order: rows (beat, frame, line) in the order of measurement; None measures frame after frame. BART files have no
    place for it. samples: readout samples of an ISMRMRD acquisition.
    """
    pattern = pattern_of(mask, order)
    if path.suffix == ".json":
        _write_json(path, pattern)
    elif path.suffix == ".cfl":
        _write_bart(path, pattern)
    elif path.suffix == ".h5":
        _write_ismrmrd(path, pattern, samples)
    else:
        raise InputError(f"a pattern to {path.name}", expected="a name that ends in .json, .cfl or .h5",
                         remedy="choose one of these formats")


def read(path: Path) -> Pattern:
    """Read a pattern from .json, BART's .cfl/.hdr or ISMRMRD .h5 (of a pattern, or of a Cartesian scan of one slice).

    The order is that of an ISMRMRD file's acquisitions, where each line of the pattern has exactly one of them and the
    counters ``phase`` and ``kspace_encode_step_1`` name it; otherwise it is None.

    Raises InputError where nothing is there, FormatError for what is no binary pattern of lines.
    """
    if not path.is_file():
        raise InputError(f"nothing at {path.name}", expected="a pattern in .json, .cfl or .h5", remedy="check the path")
    if path.suffix == ".json":
        return _read_json(path)
    if path.suffix in (".cfl", ".hdr"):
        values = rawdata.read_bart(path).data[0]
        if values.shape[1] * values.shape[2] != 1 or not bool((values == values[..., :1]).all()):
            raise FormatError(f"a BART file of {tuple(values.shape)} frames, coils, slices, lines and samples",
                              expected="whole lines of one coil and slice", remedy="make it with `bart pattern`")
        if bool((values.imag != 0).any()):
            raise FormatError("a BART pattern with imaginary values", expected="a binary pattern",
                              remedy="make it with `bart pattern`")
        return pattern_of(values.real[:, 0, 0, :, 0])
    kspace, _ = ismrmrd.read(path)
    mask = _whole_lines(kspace)
    steps = _order(path)
    named = sorted(steps[:, 1:].tolist())
    return pattern_of(mask, steps if named == mask.nonzero().tolist() else None)


def _write_json(path: Path, pattern: Pattern) -> None:
    content = {"firstread": "lines", "lines": pattern.mask.shape[1],
               "frames": [row.nonzero().flatten().tolist() for row in pattern.mask],
               "order": None if pattern.order is None else pattern.order.tolist()}
    path.write_text(json.dumps(content) + "\n", encoding="utf-8")


def _read_json(path: Path) -> Pattern:
    wrong = FormatError(f"{path.name}, which is no sampling pattern", expected='{"firstread": "lines", "lines": N, '
                        '"frames": [[line, …], …]} with lines from 0 to N - 1', remedy="write it with io.pattern.write")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        lines, frames, order = content["lines"], content["frames"], content.get("order")
        if content["firstread"] != "lines" or not 0 < lines <= _LARGEST or not 0 < len(frames) <= _LARGEST:
            raise wrong
        mask = torch.zeros(len(frames), lines, dtype=torch.bool)
        for frame, chosen in enumerate(frames):
            if any(not isinstance(k, int) or not 0 <= k < lines for k in chosen) or len(set(chosen)) != len(chosen):
                raise wrong
            mask[frame, chosen] = True
        steps = None if order is None else torch.tensor(order, dtype=torch.int64).reshape(-1, 3)
    except (ValueError, TypeError, KeyError, AttributeError, RuntimeError) as error:
        raise wrong from error
    return pattern_of(mask, steps)


def _write_bart(path: Path, pattern: Pattern) -> None:
    frames, lines = pattern.mask.shape
    sizes = [1] * 16
    sizes[1], sizes[10] = lines, frames
    path.with_suffix(".hdr").write_text("# Dimensions\n" + " ".join(map(str, sizes)) + " \n", encoding="ascii")
    pattern.mask.numpy().astype("<c8").tofile(path)  # line fastest: Fortran order of (lines, frames)


def _write_ismrmrd(path: Path, pattern: Pattern, samples: int) -> None:
    frames, lines = pattern.mask.shape
    if not 1 <= samples < _LARGEST:
        raise InputError(f"{samples} samples", expected=f"1 to {_LARGEST - 1}", remedy="correct `samples`")
    steps = pattern.order
    if steps is None:
        where = pattern.mask.nonzero()
        steps = torch.cat((torch.zeros(len(where), 1, dtype=torch.int64), where), dim=1)
    table = np.zeros(len(steps), dtype=layout.acquisition_type())
    head = np.zeros(len(steps), dtype=layout.HEAD)
    head["version"], head["scan_counter"] = 1, np.arange(len(steps))
    head["number_of_samples"], head["center_sample"] = samples, samples // 2
    head["available_channels"] = head["active_channels"] = 1
    for name, column in (("segment", 0), ("phase", 1), ("kspace_encode_step_1", 2)):
        head["idx"][name] = steps[:, column].numpy()
    head["flags"][-1] |= layout.LAST_IN_MEASUREMENT
    table["head"] = head
    for row in table:
        row["data"], row["traj"] = np.zeros(2 * samples, dtype=np.float32), np.zeros(0, dtype=np.float32)
    size, view = (samples, lines, 1), (float(samples), float(lines), 1.0)
    header = layout.Header(size, view, size, view, (lines // 2, 0), Person(), ())
    with h5py.File(path, "w") as file:
        group = file.create_group("dataset")
        text = layout.header_xml(header, coils=1, frames=frames, slices=1)
        group.create_dataset("xml", data=[text], dtype=h5py.string_dtype("ascii"))
        group.create_dataset("data", data=table, maxshape=(None,), chunks=(min(len(table), 1024),))


def _whole_lines(kspace: KSpace) -> Bool[Tensor, "frames lines"]:
    batch, frames, _, slices, lines, _ = kspace.data.shape
    mask = kspace.mask.bool().expand(batch, frames, 1, slices, lines, kspace.mask.shape[-1])
    if batch * slices != 1 or not bool((mask == mask[..., :1]).all()):
        raise FormatError(f"raw data of {batch * slices} slices, or with partial lines", expected="whole lines of one "
                          "slice", remedy="take one slice")
    return mask[0, :, 0, 0, :, 0]


def _order(path: Path) -> Int[Tensor, "acquisitions 3"]:
    """Rows (beat, frame, line) of the file's imaging lines, beats from the counter ``segment``."""
    with h5py.File(path, "r") as file:
        head = next(item for item in (file[name] for name in file) if "data" in item)["data"]["head"]
    head = head[(head["flags"] & layout.NOISE) == 0]
    steps = np.stack([head["idx"][name] for name in ("segment", "phase", "kspace_encode_step_1")], axis=1)
    return torch.from_numpy(steps.astype(np.int64))
