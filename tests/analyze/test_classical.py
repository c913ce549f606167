"""Classical vision: known shapes found again, geometry kept, bad input said."""

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from firstread.analyze.classical import AdaptiveThreshold, Edges, Otsu, needed
from firstread.analyze.correspondence import hough_circles, hough_lines, optical_flow, sift_matches, similarity_of
from firstread.analyze.seeded import GrowRegion, RandomWalk, Watershed
from firstread.analyze.texture import NAMES, Texture, cooccurrence
from firstread.analyze.vessels import Tubeness, filled_outside, line_response
from firstread.core.errors import GeometryError, SettingError, SignalError, UnsupportedError
from firstread.core.geometry import Grid
from firstread.core.records import Findings, HardLabels, Image, Rows
from firstread.ops.regions import dice

pytest.importorskip("skimage")
pytest.importorskip("cv2")
GRID = Grid.from_spacing((3, 48, 48), (4.0, 1.0, 1.0))


def image(data, grid=GRID):
    return Image(Rows.subjects(1), data[None, None, None], grid)


def lesion(noise=0.15, seed=0):
    """A bright ball of 9 mm on a darker ground; its mask."""
    z, y, x = torch.meshgrid(*(torch.arange(n) * s for n, s in zip((3, 48, 48), (4.0, 1.0, 1.0), strict=True)),
                             indexing="ij")
    inside = (z - 4)**2 + (y - 20)**2 + (x - 26)**2 <= 81
    generator = torch.Generator().manual_seed(seed)
    return image(inside.float() + noise * torch.randn(inside.shape, generator=generator)), inside


def click(image, *places, names=("lesion",)):
    index = torch.tensor([place[::-1] for place in places], dtype=torch.float64)[None]
    return Findings(Rows.subjects(1), image.grid.to_mm(index), torch.ones(1, len(places)), names)


def test_otsu_parts_two_and_three_kinds():
    given, inside = lesion()
    found = Otsu()(given)
    assert dice(found.data[0, 0, 0] > 0, inside).item() > 0.9
    steps = torch.arange(48).div(16, rounding_mode="floor").float().expand(3, 48, 48).clone()
    made = Otsu(classes=3)(image(steps + 0.1 * torch.randn(3, 48, 48, generator=torch.Generator().manual_seed(1))))
    assert torch.equal(made.data[0, 0, 0], steps.to(torch.uint8)) and len(made.names) == 3
    assert not Otsu()(image(torch.ones(3, 48, 48))).data.any()


def test_adaptive_threshold_finds_objects_under_shading():
    y = torch.linspace(0, 5, 48)[:, None]
    spots = torch.zeros(48, 48)
    spots[4::8, 4::8] = spots[5::8, 4::8] = 1.0
    shaded = image((y + spots).expand(3, 48, 48).clone())
    found = AdaptiveThreshold(window=9, offset=0.2)(shaded)
    assert torch.equal(found.data[0, 0, 0, 1] > 0, spots > 0)
    dark = AdaptiveThreshold(window=9, offset=0.2, dark=True)(replace(shaded, data=-shaded.data))
    assert torch.equal(found.data, dark.data)


def test_edges_and_circle_of_a_disc():
    y, x = torch.meshgrid(torch.arange(48.0), torch.arange(48.0), indexing="ij")
    disc = ((y - 22)**2 + (x - 25)**2 <= 12**2).float().expand(3, 48, 48).clone()
    edge = Edges()(image(disc)).data[0, 0, 0, 1]
    far = ((y - 22)**2 + (x - 25)**2).sqrt()[edge > 0]
    assert len(far) > 50 and (far - 12).abs().max() < 2
    circle = hough_circles(edge.float(), (8, 10, 12, 14))[0]
    assert (circle[:2] - torch.tensor([22, 25])).abs().max() <= 1 and circle[2] == 12
    slope = torch.zeros(40, 40)
    slope[torch.arange(40), torch.arange(40)] = 1
    angle, distance, pixels = hough_lines(slope)[0].tolist()
    assert abs(abs(angle) - np.pi / 4) < 0.02 and abs(distance) < 2 and pixels == 40


@pytest.mark.parametrize("stage", [GrowRegion(width=3.0), RandomWalk(reach_mm=14),
                                   Watershed(sigma_px=1.5, reach_mm=14)], ids=lambda stage: stage.name)
def test_a_click_finds_its_lesion(stage):
    given, inside = lesion()
    found = stage(given, click(given, (1, 20, 26)))
    assert dice(found.data[0, 0, 0] > 0, inside).item() > 0.75
    assert found.names == ("background", "lesion") and found.grid.same_as(GRID)
    flipped = replace(given, data=given.data.flip(4), grid=given.grid.flip("y"))
    again = stage(flipped, click(given, (1, 20, 26)))
    assert dice(again.data[0, 0, 0].flip(1) > 0, found.data[0, 0, 0] > 0).item() > 0.97


def test_clicks_of_two_classes_part_two_neighbours():
    values = torch.zeros(3, 48, 48)
    values[:, :, :24], values[:, :, 23:25] = 1.0, 3.0
    values += 0.02 * torch.randn(values.shape, generator=torch.Generator().manual_seed(0))
    given = image(values)
    points = click(given, (1, 20, 10), (1, 20, 40), names=("left", "right"))
    for stage in (RandomWalk(reach_mm=60), Watershed(reach_mm=60)):
        found = stage(given, points).data[0, 0, 0]
        assert (found[:, 5:43, :21] == 1).all() and (found[:, 5:43, 27:] == 2).all()


def test_clicks_outside_are_refused():
    given, _ = lesion()
    with pytest.raises(GeometryError, match="outside the image"):
        GrowRegion()(given, click(given, (1, 20, 80)))


@pytest.mark.parametrize(("method", "scales"), [("frangi", (1.5,)), ("tophat", (1.0, 3.0)), ("lines", (2.0,))])
def test_tubeness_is_high_on_a_vessel_and_follows_its_turn(method, scales):
    y, x = torch.meshgrid(torch.arange(48.0), torch.arange(48.0), indexing="ij")
    tube = torch.exp(-((y - 0.4 * x - 12) / 2)**2)
    shade = 5 - 3 * tube + 0.02 * x + 0.05 * torch.randn(48, 48, generator=torch.Generator().manual_seed(0))
    stage = Tubeness(method=method, scales_px=scales)
    made = stage(image(shade.expand(3, 48, 48).clone())).data[0, 0, 0, 1]
    assert made.min() >= 0 and made.max() <= 1
    assert made[tube > 0.8].mean() > 0.5 and made[tube < 0.01].mean() < 0.15
    bright = Tubeness(method=method, scales_px=scales, dark=False)(image((-shade).expand(3, 48, 48).clone()))
    torch.testing.assert_close(bright.data[0, 0, 0, 1], made, atol=1e-5, rtol=0)


def test_line_response_is_the_formula():
    plane = np.random.default_rng(0).standard_normal((12, 14))
    found = line_response(plane, reach=1, directions=2)
    padded = np.pad(plane, 1, mode="symmetric")
    along = np.maximum(padded[1:-1, :-2] + plane + padded[1:-1, 2:], padded[:-2, 1:-1] + plane + padded[2:, 1:-1]) / 3
    around = sum(padded[a:a + 12, b:b + 14] for a in range(3) for b in range(3)) / 9
    parts = [along - around, plane - around, plane]
    wanted = sum((p - p.mean()) / p.std() for p in parts) / 3
    np.testing.assert_allclose(found, wanted, rtol=1e-6)
    rim = filled_outside(plane, np.ones_like(plane, dtype=bool), margin=2)
    assert (rim[2:-2, 2:-2] == plane[2:-2, 2:-2]).all() and rim[0, 5] == plane[2, 5]


def test_cooccurrence_is_that_of_scikit_image():
    from skimage.feature import graycomatrix, graycoprops

    levels = np.random.default_rng(0).integers(0, 6, (1, 15, 17))
    ours = cooccurrence(levels, levels >= 0, levels=6)
    theirs = graycomatrix(levels[0].astype(np.uint8), [1], [0, np.pi / 4, np.pi / 2, 3 * np.pi / 4], 6, symmetric=True)
    pooled = theirs.sum(axis=3, keepdims=True)
    np.testing.assert_allclose(ours, pooled[..., 0, 0] / pooled.sum())
    values = torch.from_numpy(levels).float().expand(3, 15, 17).clone()
    given = image(values, Grid.from_spacing((3, 15, 17), (1.0, 1.0, 1.0)))
    mask = HardLabels(given.rows, torch.ones(1, 1, 1, 3, 15, 17, dtype=torch.uint8), given.grid, ("none", "all"))
    found = Texture(levels=6)(given, mask)
    for name in ("contrast", "homogeneity", "correlation"):
        assert float(found[f"glcm {name}"]) == pytest.approx(graycoprops(pooled / pooled.sum(), name)[0, 0])


def test_texture_tells_stripes_from_noise_and_ignores_what_is_outside():
    stripes = (torch.arange(48)[None] % 4 < 2).float().expand(3, 48, 48).clone()
    noise = torch.randn(3, 48, 48, generator=torch.Generator().manual_seed(0))
    inside = torch.zeros(1, 1, 1, 3, 48, 48, dtype=torch.uint8)
    inside[..., 8:40, 8:40] = 1
    labels = HardLabels(Rows.subjects(1), inside, GRID, ("background", "region"))
    one, two = (Texture(levels=16)(image(data), labels) for data in (stripes, noise))
    assert one.names == NAMES and float(one["glcm energy"]) > float(two["glcm energy"])
    assert float(one["lbp entropy"]) < float(two["lbp entropy"])
    changed = noise.clone()
    changed[:, :3] = 50.0
    again = Texture(levels=16)(image(changed), labels)
    torch.testing.assert_close(again.data[:, :6], two.data[:, :6])
    with pytest.raises(SignalError, match="0 pixels of class 3"):
        Texture(label=3)(image(noise), labels)


def scene(seed=0):
    from scipy import ndimage

    return ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal((160, 160)), 3)


def test_sift_finds_a_turn_and_a_shift():
    from scipy import ndimage

    plane = scene()
    angle, shift = np.deg2rad(12), np.array([6.0, -4.0])
    matrix = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    # second[q] = first[p] with q = matrix p + offset about the middle
    offset = np.array([80, 80]) + shift - matrix @ np.array([80, 80])
    moved = ndimage.affine_transform(plane, matrix.T, -matrix.T @ offset, order=3, mode="reflect")
    matches = sift_matches(torch.from_numpy(plane), torch.from_numpy(moved))
    found, fits = similarity_of(matches)
    assert len(matches) > 20 and fits.mean() > 0.7
    assert abs(float(torch.atan2(found[1, 0], found[0, 0])) - angle) < 0.01
    np.testing.assert_allclose(found[:, 2].numpy(), offset, atol=1.0)
    assert sift_matches(torch.zeros(32, 32), torch.zeros(32, 32)).shape == (0, 2, 2)


def test_similarity_ignores_matches_that_do_not_fit():
    generator = torch.Generator().manual_seed(0)
    places = 50 * torch.rand(30, 2, generator=generator)
    there = places.flip(1) * torch.tensor([-2.0, 2.0]) + 3
    there[:10] += 40 * torch.rand(10, 2, generator=generator) + 10
    matrix, fits = similarity_of(torch.stack((places, there), dim=1))
    assert fits[10:].all() and not fits[:10].any()
    torch.testing.assert_close(matrix, torch.tensor([[0.0, -2.0, 3.0], [2.0, 0.0, 3.0]]).double(), atol=1e-3, rtol=0)
    with pytest.raises(SignalError, match="1 matches"):
        similarity_of(torch.zeros(1, 2, 2))


def test_optical_flow_is_the_displacement():
    plane = scene(2)
    frames = torch.from_numpy(np.stack([plane, np.roll(plane, (2, -3), axis=(0, 1)), plane]))
    flow = optical_flow(frames)
    assert flow.shape == (2, 2, 160, 160)
    middle = flow[:, :, 20:-20, 20:-20].median(dim=-1).values.median(dim=-1).values
    torch.testing.assert_close(middle, torch.tensor([[2.0, -3.0], [-2.0, 3.0]]), atol=0.2, rtol=0)
    with pytest.raises(SettingError, match="1 frames"):
        optical_flow(frames[:1])


def test_bad_input_and_a_missing_extra_are_said(monkeypatch):
    given, _ = lesion()
    with pytest.raises(SignalError, match="no numbers"):
        Otsu()(replace(given, data=given.data * float("nan")))
    with pytest.raises(SettingError, match="2 channels"):
        Otsu()(replace(given, data=given.data.expand(-1, -1, 2, -1, -1, -1)))
    for wrong in (lambda: Otsu(classes=1), lambda: AdaptiveThreshold(window=4), lambda: Edges(low=0.9, high=0.1),
                  lambda: Tubeness(scales_px=()), lambda: GrowRegion(width=0), lambda: RandomWalk(beta=-1.0),
                  lambda: Watershed(reach_mm=0), lambda: Texture(levels=1),
                  lambda: hough_circles(torch.ones(4, 4), ())):
        with pytest.raises(SettingError):
            wrong()
    monkeypatch.setitem(sys.modules, "skimage.filters", None)
    with pytest.raises(UnsupportedError, match=r"no scikit-image .* pip install 'firstread\[classical\]'"):
        needed("skimage.filters")
