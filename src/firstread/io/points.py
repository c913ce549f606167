"""Points of a table: .csv with columns x, y, z in LPS+ millimetres, as ITK and ANTs mean them."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from firstread.core.errors import FormatError, InputError

_EXPECTED = "a table with a line of names, among them x, y and z (LPS+ millimetres)"


@dataclass(frozen=True, eq=False)
class PointTable:
    """Points ``[n, 3]`` (x, y, z), the names of all columns, and every row as it was read."""

    points_mm: Float[Tensor, "n 3"]
    names: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    columns: tuple[int, int, int]


def read_points(path: Path) -> PointTable:
    """The points of a .csv file; other columns are kept.

    Raises InputError where nothing is there, FormatError for a table without x, y, z, without rows, or with a place
    that is no finite number.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            lines = [tuple(cell.strip() for cell in line) for line in csv.reader(stream) if any(map(str.strip, line))]
    except FileNotFoundError as error:
        raise InputError(f"nothing at {path.name}", expected="a .csv file", remedy="check the path") from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise FormatError(f"{path.name}, which is no text table", expected=_EXPECTED, remedy="export it again"
                          ) from error
    names = [name.lower().removesuffix("_mm") for name in lines[0]] if lines else []
    if len(lines) == 1 and all(names.count(axis) == 1 for axis in "xyz"):
        raise FormatError(f"{path.name}, of 0 rows", expected="a point or more", remedy="add a line for each point")
    if len(lines) < 2 or any(names.count(axis) != 1 for axis in "xyz"):
        raise FormatError(f"{path.name}, of {max(0, len(lines) - 1)} rows with the columns "
                          f"{', '.join(names)[:100] or 'none'}", expected=_EXPECTED, remedy="name its columns")
    x, y, z = (names.index(axis) for axis in "xyz")
    places = []
    for number, line in enumerate(lines[1:], start=2):
        try:
            places.append([float(line[column]) for column in (x, y, z)])
        except (ValueError, IndexError) as error:
            raise FormatError(f"{path.name}, line {number}: {','.join(line)[:60]}", expected="numbers x, y and z",
                              remedy="correct the line") from error
    points = torch.tensor(places, dtype=torch.float64)
    if not torch.isfinite(points).all():
        line_number = int((~torch.isfinite(points)).any(dim=1).nonzero()[0]) + 2
        raise FormatError(f"{path.name}, line {line_number}, a place that is no finite number",
                          expected="numbers x, y and z", remedy="correct the line")
    return PointTable(points, lines[0], tuple(lines[1:]), (x, y, z))


def write_points(path: Path, table: PointTable, points_mm: Float[Tensor, "n 3"]) -> None:
    """The same table with other places."""
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(table.names)
        for row, point in zip(table.rows, points_mm.tolist(), strict=True):
            cells = list(row)
            for column, value in zip(table.columns, point, strict=True):
                cells[column] = f"{value:.6g}" if abs(value) < 1e-3 else f"{value:.4f}"
            writer.writerow(cells)
