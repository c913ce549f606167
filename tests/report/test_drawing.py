"""Contours, sprites, bullseye, curves and rulers: what is drawn is what was found."""

import base64
import io
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from fake_reading import phenotype, phenotypes, reading
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image as Pillow

from firstread.core.geometry import Grid
from firstread.core.reading import Person
from firstread.core.records import Image, KSpace, Phenotype, Rows
from firstread.report.bullseye import place, sector, segments
from firstread.report.cine import cine
from firstread.report.contours import encode, outlines, region_of_interest
from firstread.report.curve import drawing, ticks
from firstread.report.numbers import row, ruler
from firstread.report.pictures import magnitude, sampling, shown_slices, slice_places, sprites
from firstread.report.ranges import reference_range
from firstread.report.rawdata import raw_part


def area(points: np.ndarray) -> float:
    x, y = points.T
    return abs(float(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1)))) / 2


@settings(max_examples=40, deadline=None)
@given(arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12))))
def test_outlines_stay_beside_the_pixels_they_enclose(mask):
    found = outlines(mask)
    assert bool(found) == bool(mask.any())
    inside = np.argwhere(mask)[:, ::-1]
    for line in found:
        distance = np.linalg.norm(line[:, None] - inside[None], axis=-1).min(axis=1)
        assert distance.max() <= 1.0


def test_the_area_inside_an_outline_is_that_of_the_mask():
    y, x = np.mgrid[:64, :64]
    mask = np.hypot(x - 30, y - 33) < 20
    (line,) = outlines(mask)
    assert area(line) == pytest.approx(mask.sum(), rel=0.02)
    assert line.mean(axis=0) == pytest.approx([30, 33], abs=0.05)


def test_outline_text_is_undone_by_adding_up():
    y, x = np.mgrid[:32, :32]
    lines = outlines((np.hypot(x - 9, y - 9) < 5) | (np.hypot(x - 24, y - 20) < 4))
    parts = [np.array(part.split(), int).reshape(-1, 2).cumsum(axis=0) / 10 for part in encode(lines).split(";")]
    assert len(parts) == len(lines) == 2
    for part, line in zip(parts, lines, strict=True):
        assert np.abs(part - line).max() <= 0.05 + 1e-9


def test_region_holds_all_labels_and_stays_inside():
    labels = np.zeros((2, 3, 40, 50), np.uint8)
    labels[1, 2, 5:15, 20:44] = 2
    x0, y0, x1, y1 = region_of_interest(labels)
    assert 0 <= x0 <= 20 and 44 <= x1 <= 50 and 0 <= y0 <= 5 and 15 <= y1 <= 40
    assert region_of_interest(np.zeros_like(labels)) is None


def test_a_sprite_holds_every_frame_in_its_place():
    stack = np.zeros((7, 2, 1, 20, 30), np.float32)
    for t in range(7):
        stack[t, 1] = t / 6
    sprite = sprites(stack, budget_bytes=100_000, grey_window=(0.0, 1.0))[1]
    sheet = np.asarray(Pillow.open(io.BytesIO(base64.b64decode(sprite.uri.split(",")[1]))).convert("L"))
    for t in range(7):
        top, left = t // sprite.columns * sprite.height, t % sprite.columns * sprite.width
        tile = sheet[top : top + sprite.height, left : left + sprite.width]
        assert abs(float(tile.mean()) - 255 * t / 6) < 6


def test_sprites_keep_to_their_budget():
    noise = np.random.default_rng(3).random((10, 4, 1, 96, 96), dtype=np.float32)
    for budget in (400_000, 60_000, 20_000):
        assert sum(len(s.uri) for s in sprites(noise, budget_bytes=budget)) <= budget


def test_long_stacks_are_thinned_evenly():
    assert shown_slices(12) == list(range(12))
    chosen = shown_slices(5000)
    assert len(chosen) == 120 and chosen[0] == 0 and chosen[-1] == 4999


def test_parts_of_a_subject_become_slices_and_other_draws_are_left_out():
    rows = Rows(torch.tensor([0, 0, 0, 0]), torch.tensor([1, 0, 1, 0]), torch.tensor([0, 0, 1, 1]))
    data = torch.arange(4.0).reshape(4, 1, 1, 1, 1, 1).expand(4, 1, 1, 1, 2, 2)
    image = Image(rows, data, Grid.from_spacing((1, 2, 2), (8.0, 1.0, 1.0), batch=4))
    assert magnitude(image, slice_places(image))[0, :, 0, 0, 0].tolist() == [1.0, 0.0]


def test_sampling_shows_the_mask_of_every_frame():
    mask = torch.zeros(1, 3, 1, 1, 8, 1)
    for t in range(3):
        mask[0, t, 0, 0, t] = 1
    grid = Grid.from_spacing((1, 8, 6), (8.0, 1.0, 1.0))
    found = sampling(KSpace(Rows.subjects(1), torch.zeros(1, 3, 2, 1, 8, 6, dtype=torch.complex64), grid, mask))
    assert found.shape == (3, 8, 6)
    assert [np.flatnonzero(frame.all(axis=1)).tolist() for frame in found] == [[0], [1], [2]]
    one_mask = KSpace(Rows.subjects(1), torch.zeros(1, 3, 2, 1, 8, 6, dtype=torch.complex64), grid, mask[:, :1])
    assert sampling(one_mask).sum() == 3 * 6


def test_raw_data_shows_error_only_with_a_truth():
    known = reading(raw=True, frames=4, slices=2, size=32)
    titles = [p["title"] for p in raw_part(known.case)["panels"]]
    assert titles == ["Zero-filled", "Reconstruction", "Truth", "Error of zero-filled", "Error of reconstruction"]
    without = {name: record for name, record in known.case.items() if name != "truth.image"}
    titles = [p["title"] for p in raw_part(type(known.case)(without))["panels"]]
    assert titles == ["Zero-filled", "Reconstruction"]
    assert raw_part(reading(size=32, slices=2).case) is None


def test_the_cine_has_one_contour_for_every_frame_and_slice():
    found = cine(reading(frames=5, slices=3, size=48).case)
    assert found["frames"] == 5 and len(found["sprites"]) == 3 and found["aspect"] == 1.0
    assert [c["name"] for c in found["contours"]] == ["LV endocardium", "LV epicardium", "RV endocardium"]
    assert all(len(c["paths"]) == 5 and all(len(f) == 3 for f in c["paths"]) for c in found["contours"])
    assert found["cycle_ms"] == pytest.approx(940)


def test_the_page_says_why_there_are_no_contours(monkeypatch):
    one = reading(frames=1, slices=1, size=32)
    labels = one.case["labels"]
    blank = replace(labels, data=torch.zeros_like(labels.data))
    other = replace(labels, data=labels.data[..., :16], grid=labels.grid.crop((0, 0, 0), (1, 32, 16)))
    for changed, reason in ((blank, "nothing was labelled"), (other, "no label map that fits")):
        found = cine(replace(one.case, records={**one.case.records, "labels": changed}))
        assert found["contours"] == [] and reason in found["no_contours"]
    monkeypatch.setattr("firstread.report.cine.CONTOUR_BYTES", 20)
    found = cine(one.case)
    assert found["contours"] == [] and "more room" in found["no_contours"]


def test_segments_cover_the_bullseye_once():
    for ring in (range(1, 7), range(7, 13), range(13, 17)):
        covered = sorted((place(n)[2] % 360, place(n)[3] - place(n)[2]) for n in ring)
        assert sum(width for _, width in covered) == 360
        assert len({start for start, _ in covered}) == len(covered)


def test_anterior_is_up_and_the_septum_is_left():
    found = {s.number: s for s in segments(phenotypes().values)}
    assert all(found[n].label_y < -20 and abs(found[n].label_x) < 0.1 for n in (1, 7, 13))
    assert all(found[n].label_x < -20 for n in (2, 3, 8, 9, 14))
    assert all(found[n].label_x > 20 for n in (5, 6, 11, 12, 16))
    assert found[15].value is None and found[15].reason
    numbers = [float(v) for v in re.findall(r"-?\d+\.\d+", sector(16.0, 42.0, 0.0, 90.0))]
    assert numbers[:2] == [42.0, 0.0] or numbers[:2] == [42.0, -0.0]


def test_no_bullseye_without_wall_thickness():
    assert segments({"LVEDV": phenotype(100.0, "mL")}) == []


def test_curves_fall_where_the_scale_says():
    curves = {"LV_volume_ml": [100.0, 50.0, None, 100.0], "other": [1.0, 2.0]}
    found = drawing(curves, None, {"ED": 0, "ES": 1, "X": None})
    (line,) = found.lines
    assert line.points[2] is None and line.points[0][1] < line.points[1][1]
    scale = {text: y for y, text in found.y_ticks}
    half = (scale["100"] + scale["0"]) / 2
    assert line.points[0][1] == scale["100"] and line.points[1][1] == pytest.approx(half, abs=0.1)
    assert found.marks == [("ED", found.x[0]), ("ES", found.x[1])]
    assert found.x_title == "Frame" and [text for _, text in found.x_ticks] == ["1", "2", "3", "4"]
    assert drawing({"LV_volume_ml": [100.0]}, None, {}) is None
    empty = drawing({"LV_volume_ml": [0.0, 0.0]}, None, {})
    assert empty is not None and empty.lines[0].points[0] is not None


@given(st.floats(-1e4, 1e4), st.floats(1e-3, 1e4))
def test_ticks_cover_their_span(low, width):
    found = ticks(low, low + width)
    assert found[0] <= low + 1e-6 * abs(low) + 1e-12 and found[-1] >= low + width - 1e-6 * (abs(low) + width)
    assert 2 <= len(found) <= 12


@given(st.floats(0, 500), st.floats(0, 200))
def test_the_ruler_keeps_all_marks_on_it(value, half):
    span = reference_range("LVEDV", "F")
    found = ruler(value, (value - half, value + half), span)
    marks = ((found.range_left, found.range_width), (found.interval_left, found.interval_width), (found.value, 0.0))
    for left, width in marks:
        assert left >= -0.01 and left + width <= 100.02


def test_a_row_per_body_surface_divides_value_and_interval():
    person = Person(sex="F", height_cm=168.0, weight_kg=66.0)
    surface = person.body_surface_m2
    found = row("LVEDV", phenotype(175.5, "mL", 17.55), person)
    assert found.indexed.value == f"{175.5 / surface:.0f}"
    assert found.indexed.interval == f"{157.95 / surface:.0f} – {193.05 / surface:.0f}"
    assert found.cell.place == "above" and not found.cell.sure
    assert row("LVEF", phenotype(55.0, "%"), person).indexed is None
    edge = row("LVSV", phenotype(46.6, "mL"), person).cell
    assert (edge.value, edge.range, edge.place) == ("47", "47 – 110", "within")
    absent = row("LVEF", Phenotype(None, "%", reason="why"), person)
    assert absent.cell is None and absent.reason == "why"
