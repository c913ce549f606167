"""Resizing beside scipy's zoom (which scikit-image and nnU-Net use), and as a linear map."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from firstread.core.errors import SettingError
from firstread.ops.resize import resize, resize_axis, spline_matrix


@pytest.mark.parametrize("order", [0, 1, 3])
@pytest.mark.parametrize("old, new", [((7, 9, 11), (9, 6, 20)), ((1, 3, 30), (4, 1, 13)), ((5, 6, 2), (11, 12, 3))])
def test_is_scipys_zoom_with_edges_kept(order, old, new):
    data = np.random.default_rng(0).normal(size=old)
    factors = [n / o for n, o in zip(new, old, strict=True)]
    theirs = ndimage.zoom(data, factors, order=order, mode="nearest", grid_mode=True)
    ours = resize(torch.from_numpy(data), new, order=order, clip=False)
    np.testing.assert_allclose(ours.numpy(), theirs, atol=1e-7)
    clipped = resize(torch.from_numpy(data), new, order=order)
    np.testing.assert_allclose(clipped.numpy(), theirs.clip(data.min(), data.max()), atol=1e-7)


@pytest.mark.parametrize("order", [1, 3])
def test_keeps_constants_and_gives_its_gradient(order):
    assert torch.allclose(resize(torch.full((2, 5, 4), 3.0).double(), (7, 3), order=order), torch.tensor(3.0).double())
    data = torch.randn(2, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: resize(x, (6, 3), order=order, clip=False), data)


def test_each_block_is_clipped_by_itself():
    data = torch.tensor([[0.0, 1.0, 0.0, 0.0], [0.0, 100.0, 0.0, 0.0]])
    made = resize(data, (9,), order=3)
    assert float(made[0].max()) <= 1 and float(made[0].min()) >= 0
    assert float(resize_axis(data, 1, 9, order=3)[0].min()) < 0


def test_rows_of_the_spline_matrix_sum_to_one():
    rows = spline_matrix(6, torch.linspace(-0.5, 5.5, 13)).sum(dim=1)
    torch.testing.assert_close(rows, torch.ones_like(rows))


@pytest.mark.parametrize("shape, order", [((3, 3), 2), ((3, 3, 3), 1), ((0, 3), 1)])
def test_what_cannot_be_resized_is_refused(shape, order):
    with pytest.raises(SettingError, match="resizing"):
        resize(torch.ones(4, 4), shape, order=order)
