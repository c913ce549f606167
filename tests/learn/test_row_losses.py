"""Losses of single results: by hand, and each row by itself."""

import pytest
import torch

from firstread.core.errors import SettingError
from firstread.core.geometry import Grid
from firstread.core.records import HardLabels, Image, Phenotype, Phenotypes, Risk, Rows, SoftLabels
from firstread.learn.losses import dice_cross_entropy
from firstread.learn.objectives import matching, subject_means
from firstread.learn.row_losses import (
    contour_error,
    contour_loss,
    image_error,
    phenotype_error,
    relative_error,
    value_of,
)

GRID = Grid.from_spacing((1, 6, 5), (8.0, 1.5, 1.5))


def picture(seed: int, rows: int = 2) -> Image:
    data = torch.randn(rows, 3, 1, 1, 6, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.complex128)
    return Image(Rows.subjects(rows), data, GRID)


def test_relative_error_by_hand():
    x, t = torch.tensor([[3.0, 0.0]]), torch.tensor([[1.0, 1.0]])
    assert relative_error(x, t).item() == pytest.approx(0.5)
    assert relative_error(x, t, scaled=False).item() == pytest.approx(2.5)


def test_image_error_knows_no_scale_and_no_global_phase():
    x, t = picture(1), picture(2)
    turned = Image(x.rows, x.data * (0.3 + 2j), x.grid)
    complex_error = image_error(magnitude=False)
    torch.testing.assert_close(complex_error(turned, t), complex_error(x, t))
    torch.testing.assert_close(image_error()(turned, t), image_error()(x, t))
    assert (complex_error(x, x) < 1e-28).all() and (complex_error(x, t) > 0.5).all()
    least = torch.linalg.lstsq(x.data[0].reshape(-1, 1), t.data[0].reshape(-1, 1))
    expected = (x.data[0].reshape(-1, 1) @ least.solution - t.data[0].reshape(-1, 1)).abs().square().sum()
    assert complex_error(x, t)[0].item() == pytest.approx((expected / t.data[0].abs().square().sum()).item())


def test_contours_agree_with_the_loss_of_logits_and_rows_do_not_meet():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 4, 1, 6, 5, generator=generator, dtype=torch.float64)
    truth = torch.randint(4, (2, 3, 1, 1, 6, 5), generator=generator)
    soft = SoftLabels(Rows.subjects(2), logits.softmax(dim=2), GRID, ("a", "b", "c", "d"))
    found = contour_error()(soft, HardLabels(Rows.subjects(2), truth, GRID, soft.names))
    for row in range(2):
        expected = dice_cross_entropy(logits[row].squeeze(2), truth[row, :, 0, 0])
        assert found[row].item() == pytest.approx(expected.item())
    leaf = soft.data.clone().requires_grad_()
    contour_loss(leaf, truth[:, :, 0])[0].backward()
    assert leaf.grad[1].abs().sum() == 0
    assert torch.autograd.gradcheck(lambda p: contour_loss(p, truth[:, :1, 0]), soft.data[:, :1].requires_grad_())


def test_phenotype_error_by_hand():
    def numbers(*values: float) -> Phenotypes:
        return Phenotypes(Rows.subjects(2), {"LVEF": Phenotype(torch.tensor(values), "%"),
                                             "LVM": Phenotype(None, "g", reason="no spacing")})

    error = phenotype_error("LVEF", scale=10)
    assert error(numbers(50.0, 60.0), numbers(55.0, 40.0)).tolist() == pytest.approx([0.125, 1.5])
    with pytest.raises(SettingError, match=r"no LVM \(no spacing\)"):
        phenotype_error("LVM")(numbers(1.0, 2.0), numbers(1.0, 2.0))
    with pytest.raises(SettingError, match="not measured"):
        value_of("LVGLS")(numbers(1.0, 2.0))
    with pytest.raises(SettingError, match="Phenotypes for this loss"):
        value_of("LVEF")(Risk(Rows.subjects(1), torch.zeros(1)))
    assert value_of()(Risk(Rows.subjects(1), torch.ones(1))).item() == 1


def test_grids_that_differ_are_refused():
    other = Image(Rows.subjects(2), picture(1).data[..., :4], GRID.crop((0, 0, 0), (1, 6, 4)))
    with pytest.raises(SettingError, match="the same grid"):
        image_error()(picture(1), other)


def test_rows_are_matched_by_subject_and_part_whatever_their_draw():
    rows = Rows(torch.tensor([4, 4, 2]), torch.tensor([1, 0, 0]), torch.tensor([7, 7, 3]))
    truth = Rows(torch.tensor([2, 4, 4]), torch.tensor([0, 0, 1]), torch.zeros(3, dtype=torch.int64))
    assert matching(rows, truth).tolist() == [2, 1, 0]
    with pytest.raises(SettingError, match="no truth for subject 0, part 2"):
        matching(Rows.parts(3), Rows.parts(2))
    assert subject_means(torch.tensor([1.0, 3.0, 5.0]), rows).tolist() == [5.0, 2.0]
