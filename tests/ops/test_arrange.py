"""Images turned and resampled for a network, and back: what is stored how must not matter."""

from itertools import permutations, product

import pytest
import torch

from firstread.core.errors import GeometryError, SettingError
from firstread.core.geometry import Grid
from firstread.ops.arrange import Arrangement, slice_inputs

ANY = (None, None, None)


def stored(order, flips):
    """One volume of 5 x 6 x 7 voxels of 8 x 1 x 1.5 mm, stored another way."""
    grid = Grid.from_spacing((5, 6, 7), (8.0, 1.0, 1.5))
    data = torch.arange(210.0).reshape(1, 1, 5, 6, 7)
    data = data.permute(0, 1, *(2 + axis for axis in order)).flip([2 + axis for axis in range(3) if flips[axis]])
    grid = grid.permute(order)
    for axis, flip in zip("zyx", flips, strict=True):
        grid = grid.flip(axis) if flip else grid
    return data, grid


@pytest.mark.parametrize("slices", [True, False])
def test_every_way_of_storing_gives_the_same_image(slices):
    data, grid = stored((0, 1, 2), (False,) * 3)
    expected = Arrangement.of(grid, spacing_mm=ANY, slices=slices).image(data)
    for order, flips in product(permutations(range(3)), [(False,) * 3, (True, False, True), (True, True, False)]):
        data, grid = stored(order, flips)
        found = Arrangement.of(grid, spacing_mm=ANY, slices=slices)
        assert torch.equal(found.image(data), expected)
        assert torch.equal(found.back(found.image(data)), data)


def test_resampled_it_keeps_its_place_and_labels_their_volume():
    grid = Grid.from_spacing((3, 40, 40), (8.0, 1.0, 1.0))
    y, x = torch.meshgrid(torch.arange(40.0), torch.arange(40.0), indexing="ij")
    disc = (((y - 15) ** 2 + (x - 24) ** 2) < 81).to(torch.uint8).expand(1, 3, -1, -1).clone()
    found = Arrangement.of(grid, spacing_mm=(None, 2.0, 2.0), slices=True)
    assert found.target.shape == (3, 20, 20)
    label = found.labels(disc, classes=2)
    assert float(label.sum() * 4) == pytest.approx(float(disc.sum()), rel=0.08)
    back = found.back(label.float().unsqueeze(1))[0, 0] > 0.5
    shared = (back & (disc[0] == 1)).sum() * 2 / (back.sum() + disc.sum())
    assert shared > 0.94


def test_unknown_voxels_stay_unknown():
    grid = Grid.from_spacing((1, 8, 8), (8.0, 1.0, 1.0))
    label = torch.full((1, 1, 8, 8), 255, dtype=torch.uint8)
    label[..., :4] = 1
    made = Arrangement.of(grid, spacing_mm=(None, 2.0, 2.0), slices=True).labels(label, classes=2)
    assert sorted(made.unique().tolist()) == [1, 255]


def test_millimetres_are_not_invented():
    with pytest.raises(GeometryError, match="without spacing"):
        Arrangement.of(Grid.pixels((2, 4, 4)), spacing_mm=(None, 1.0, 1.0), slices=True)
    with pytest.raises(SettingError, match="2 rows"):
        Arrangement.of(Grid.from_spacing((2, 4, 4), (1.0, 1.0, 1.0), batch=2), spacing_mm=ANY, slices=True)


def test_slices_with_neighbours_keep_channels_apart():
    volume = torch.stack((torch.arange(3.0), 10 + torch.arange(3.0))).reshape(2, 3, 1, 1)
    assert slice_inputs(volume, neighbours=1)[1, :, 0, 0].tolist() == [0, 1, 2, 10, 11, 12]
