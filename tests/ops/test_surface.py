"""Surface distances: against all pairs, scipy, MONAI, SimpleITK and geometry."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from firstread.core.errors import SettingError
from firstread.ops import surface
from firstread.ops.surface_elements import corner_codes, element_sizes

masks = arrays(bool, (3, 5, 6)).map(torch.from_numpy)
spacings = st.tuples(*[st.floats(0.5, 10.0)] * 3)


def ball(radius, centre=(0.0, 0.0, 0.0), half=20, spacing=(1.0, 1.0, 1.0)):
    axes = [torch.arange(-half, half + 1) * s - c for s, c in zip(spacing, centre, strict=True)]
    z, y, x = torch.meshgrid(*axes, indexing="ij")
    return (z**2 + y**2 + x**2).double().sqrt() <= radius


def rough(seed):
    noise = np.random.default_rng(seed).standard_normal((24, 40, 36))
    return torch.from_numpy(ndimage.gaussian_filter(noise, 4) > 0.01)


@settings(max_examples=40, deadline=None)
@given(masks, masks, spacings)
def test_distances_agree_with_all_pairs(a, b, spacing):
    found = surface.surface_distances(a, b, spacing)
    if not (a.any() and b.any()):
        assert found.absent and found.second_mm.numel() == 0
        return
    points = [_surface(mask) * torch.tensor(spacing, dtype=torch.float64) for mask in (a, b)]
    pairs = torch.cdist(points[0], points[1], compute_mode="donot_use_mm_for_euclid_dist")
    torch.testing.assert_close(found.first_mm, pairs.min(1).values, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found.second_mm, pairs.min(0).values, rtol=1e-12, atol=1e-12)
    assert surface.mean_surface_distance(found) <= surface.hausdorff_mm(found)


def _surface(mask):
    """Surface voxels by definition, one at a time."""
    points = []
    for index in mask.nonzero().tolist():
        for axis in range(3):
            for step in (-1, 1):
                near = list(index)
                near[axis] += step
                if not 0 <= near[axis] < mask.shape[axis] or not mask[tuple(near)]:
                    points.append(tuple(index))
    return torch.tensor(sorted(set(points)), dtype=torch.float64)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (5.0, 0.7, 0.9)])
@pytest.mark.parametrize("shift", [0, 2, 9])
def test_distances_agree_with_the_distance_transform(shift, spacing):
    a, b = rough(0), rough(0).roll(shift, dims=1) & rough(1)
    found = surface.surface_distances(a, b, spacing)
    edges = [m.numpy() & ~ndimage.binary_erosion(m.numpy()) for m in (a, b)]
    for one, other, distances in ((0, 1, found.first_mm), (1, 0, found.second_mm)):
        field = ndimage.distance_transform_edt(~edges[other], sampling=spacing)
        np.testing.assert_allclose(distances.numpy(), field[edges[one]], rtol=1e-12)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (3.0, 0.8, 1.1)])
def test_the_same_numbers_as_monai(spacing):
    from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance, compute_surface_dice

    a, b = rough(0), rough(0).roll(2, dims=2)
    hot = [mask[None, None].float() for mask in (a, b)]
    found = surface.surface_distances(a, b, spacing)
    theirs = {
        "hd95": compute_hausdorff_distance(*hot, include_background=True, percentile=95, spacing=spacing),
        "hd": compute_hausdorff_distance(*hot, include_background=True, spacing=spacing),
        "assd": compute_average_surface_distance(*hot, include_background=True, symmetric=True, spacing=spacing)}
    ours = {"hd95": surface.hausdorff_mm(found, percent=95), "hd": surface.hausdorff_mm(found),
            "assd": surface.mean_surface_distance(found)}
    for name, value in theirs.items():
        assert ours[name] == pytest.approx(float(value), rel=1e-5)
    nsd = compute_surface_dice(*hot, class_thresholds=[1.5], include_background=True, spacing=spacing)
    assert surface.surface_dice(found, tolerance_mm=1.5) == pytest.approx(float(nsd), rel=1e-5)


def test_the_same_hausdorff_distance_as_simpleitk():
    import SimpleITK

    spacing = (3.0, 0.8, 1.1)
    a, b = ball(11, half=14, spacing=spacing), ball(9, (4.0, 2.0, -3.0), half=14, spacing=spacing)
    images = [SimpleITK.GetImageFromArray(mask.numpy().astype(np.uint8)) for mask in (a, b)]
    for image in images:
        image.SetSpacing(spacing[::-1])
    theirs = SimpleITK.HausdorffDistanceImageFilter()
    theirs.Execute(*images)
    assert surface.hausdorff_mm(surface.surface_distances(a, b, spacing)) == pytest.approx(
        theirs.GetHausdorffDistance(), rel=1e-5)


def test_concentric_spheres_are_their_radii_apart():
    half = (0.5, 0.5, 0.5)
    for elements in ("voxels", "areas"):
        found = surface.surface_distances(ball(10), ball(16), half, elements=elements)
        assert surface.mean_surface_distance(found) == pytest.approx(3.0, abs=0.3)  # half a voxel and rounding
        assert surface.hausdorff_mm(found, percent=95) == pytest.approx(3.0, abs=0.5)
    assert surface.hausdorff95_mm(ball(10), ball(16), half, definition="area-weighted") == pytest.approx(3, abs=0.5)


def test_area_of_a_sphere_counts_what_it_should():
    found = surface.surface_distances(ball(15), ball(15), (1.0, 1.0, 1.0), elements="areas")
    assert float(found.first_size.sum()) == pytest.approx(4 * math.pi * 15**2, rel=0.1)  # steps make it rougher
    flat = torch.zeros(1, 20, 20, dtype=torch.bool)
    flat[0, 5:15, 5:15] = True
    square = surface.surface_distances(flat, flat, (9.0, 0.5, 2.0), elements="areas")
    corners = 4 * (math.hypot(0.25, 1.0) - 1.25)
    assert float(square.first_size.sum()) == pytest.approx(2 * (10 * 0.5 + 10 * 2.0) + corners)


def test_elements_of_a_mask_and_of_what_is_around_it_are_the_same():
    sizes = element_sizes((3.0, 1.0, 0.7))
    np.testing.assert_allclose(sizes, sizes[::-1], rtol=1e-12)
    assert sizes[0] == sizes[-1] == 0 and (sizes[1:-1] > 0).all()
    mask = rough(3).numpy()
    inner, outer = corner_codes(mask)[1:-1, 1:-1, 1:-1], corner_codes(~mask)[1:-1, 1:-1, 1:-1]
    assert (inner == 255 - outer).all()


def test_the_definitions_are_in_their_order_and_named():
    found = surface.surface_distances(rough(0), rough(1), (2.0, 1.0, 1.0))
    largest, pooled = (surface.hausdorff_mm(found, percent=95, definition=d) for d in ("largest", "pooled"))
    assert pooled <= largest <= surface.hausdorff_mm(found)
    whole = {d: surface.hausdorff_mm(found, definition=d) for d in ("largest", "pooled", "area-weighted")}
    assert len(set(whole.values())) == 1
    with pytest.raises(SettingError, match="at 0 %"):
        surface.hausdorff_mm(found, percent=0)


def test_a_single_slice_has_a_contour():
    a = torch.zeros(1, 12, 12, dtype=torch.bool)
    a[0, 2:10, 2:10] = True
    found = surface.surface_distances(a, a, (8.0, 1.0, 1.0))
    assert found.first_mm.numel() == 28
    assert surface.hausdorff95_mm(a, a.roll(1, dims=2), (8.0, 1.0, 1.5)) == 1.5


def test_spacing_scales_and_order_of_axes_does_not_matter():
    a, b, spacing = rough(0), rough(2), (2.0, 0.5, 1.25)
    whole = surface.hausdorff95_mm(a, b, spacing)
    assert surface.hausdorff95_mm(a, b, tuple(3 * s for s in spacing)) == pytest.approx(3 * whole)
    turned = [m.permute(2, 0, 1).flip(0) for m in (a, b)]
    assert surface.hausdorff95_mm(*turned, (spacing[2], spacing[0], spacing[1])) == pytest.approx(whole)
    assert surface.hausdorff95_mm(b, a, spacing) == whole


def test_empty_masks_have_no_surface_distance():
    empty, full = torch.zeros(1, 2, 2).bool(), torch.ones(1, 2, 2).bool()
    assert math.isnan(surface.hausdorff95_mm(empty, full, (1.0, 1.0, 1.0)))
    assert math.isnan(surface.mean_surface_distance_mm(empty, empty, (1.0, 1.0, 1.0)))
    assert math.isnan(surface.surface_dice(surface.surface_distances(full, empty, (1.0,) * 3), tolerance_mm=1.0))


def test_settings_out_of_range_are_refused():
    with pytest.raises(SettingError, match="one shape"):
        surface.surface_distances(torch.ones(2, 2).bool(), torch.ones(2, 2).bool(), (1.0,))
    with pytest.raises(SettingError, match="one shape"):
        surface.surface_distances(torch.ones(2, 2).bool(), torch.ones(2, 3).bool(), (1.0, 1.0))
    with pytest.raises(SettingError, match="tolerance"):
        surface.surface_dice(surface.surface_distances(torch.ones(2, 2).bool(), torch.ones(2, 2).bool(), (1.0, 1.0)),
                             tolerance_mm=-1)
