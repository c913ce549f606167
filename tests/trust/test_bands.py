"""Contour bands: distances against another implementation, the risk by simulation, geometry, refusal."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from firstread.core.errors import GeometryError, SettingError
from firstread.core.geometry import Grid
from firstread.core.records import HardLabels, Rows
from firstread.ops.regions import signed_distance_mm
from firstread.trust.bands import Band, ContourBand, band_losses, calibrate_band

NAMES = ("background", "LV cavity", "LV myocardium")
MARGINS = torch.arange(0, 16.0, 0.5).double()


def discs(radii, *, spacing=(8.0, 1.5, 1.5), size=40):
    """Cavities of these radii in mm, with 6 mm of muscle around."""
    mm = (torch.arange(size) - size / 2) * spacing[1]
    r = (mm[:, None]**2 + mm[None]**2).sqrt()
    data = torch.stack([(r < radius).to(torch.uint8) + 2 * ((r >= radius) & (r < radius + 6)).to(torch.uint8)
                        for radius in radii])
    grid = Grid.from_spacing((1, size, size), spacing, batch=len(radii))
    return HardLabels(Rows.subjects(len(radii)), data[:, None, None, None], grid, NAMES)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 999), st.floats(0.5, 3))
def test_signed_distance_is_the_nearest_pixel_of_the_other_kind(seed, spacing):
    mask = torch.rand(2, 6, 7, generator=torch.Generator().manual_seed(seed)) < 0.4
    found = signed_distance_mm(mask, (spacing, 1.0))
    y, x = torch.meshgrid(torch.arange(6) * spacing, torch.arange(7) * 1.0, indexing="ij")
    place = torch.stack((y, x), -1).reshape(-1, 2).double()
    apart = torch.cdist(place, place)
    for plane, distance in zip(mask.flatten(1), found.flatten(1), strict=True):
        if plane.any() and not plane.all():
            other = apart.masked_fill(plane[:, None] == plane[None], torch.inf).amin(1)
            torch.testing.assert_close(distance, torch.where(plane, -other, other), rtol=0, atol=1e-5)
    assert bool((signed_distance_mm(~mask, (spacing, 1.0)) == -found).all())


def test_planes_without_a_mask_are_infinitely_far():
    mask = torch.zeros(2, 3, 3).bool()
    mask[1] = True
    assert signed_distance_mm(mask, (1.0, 1.0))[:, 0, 0].tolist() == [torch.inf, -torch.inf]


def test_the_mean_loss_on_new_cases_is_at_most_the_risk():
    """Predicted radius 15 mm, true radius 15 ± 2 mm: both contours fail as often as allowed, on average over sets."""
    draw = torch.Generator().manual_seed(1)
    shares, dices = [], []
    losses = None
    for _ in range(2):
        true = discs((15 + 2 * torch.randn(120, generator=draw)).tolist())
        made = band_losses(discs([15.0] * 120), true, ("LV cavity",), MARGINS)
        losses = made if losses is None else {n: torch.cat((losses[n], made[n])) for n in made}
    for _ in range(200):
        order = torch.randperm(240, generator=draw)
        old, new = ({n: table[chosen] for n, table in losses.items()} for chosen in (order[:60], order[60:]))
        band = calibrate_band(old, MARGINS, classes=("LV cavity",), risk=0.05, calibrated_on="discs")
        whole = calibrate_band(old, MARGINS, classes=("LV cavity",), risk=0.05, calibrated_on="discs", loss="dice")
        at = [int((margin == MARGINS).nonzero()) for margin in (band.outer_mm, band.inner_mm, whole.outer_mm)]
        shares.append([new["missed"][:, at[0]].mean().item(), new["claimed"][:, at[1]].mean().item()])
        dices.append(new["dice"][:, at[2]].mean().item())
    assert all(0.01 < sum(side) / 200 <= 0.05 for side in zip(*shares, strict=True))
    assert 0.01 < sum(dices) / 200 <= 0.05


def test_the_band_lies_between_the_shrunk_and_the_grown_mask():
    labels = discs([15.0, 12.0])
    made = ContourBand(band=Band(("LV cavity",), 3.0, 4.5, "shares", 0.05, 99, "discs"))(labels)
    for row, radius in enumerate((15.0, 12.0)):
        area = [(made.data[row] >= level).sum().item() * 2.25 for level in (1, 2)]
        assert area[0] == pytest.approx(torch.pi * (radius + 4.5)**2, rel=0.1)
        assert area[1] == pytest.approx(torch.pi * (radius - 3.0)**2, rel=0.1)
    assert made.names == ("outside", "possible LV cavity", "certain LV cavity")
    assert "4.5 mm outwards" in made.notes[0].text
    none = ContourBand(band=Band(("LV cavity",), 0.0, 0.0, "shares", 0.05, 99, "discs"))(labels)
    assert torch.equal(none.data == 2, labels.data == 1) and not (none.data == 1).any()


def test_millimetres_and_not_pixels_count():
    band = Band(("LV cavity", "LV myocardium"), 3.0, 3.0, "dice", 0.05, 99, "discs")
    coarse, fine = (ContourBand(band=band)(discs([15.0], spacing=(8.0, mm, mm), size=size))
                    for mm, size in ((1.5, 40), (0.75, 80)))
    for level in (1, 2):
        areas = [(made.data >= level).sum().item() * mm**2 for made, mm in ((coarse, 1.5), (fine, 0.75))]
        assert areas[0] == pytest.approx(areas[1], rel=0.1)


def test_what_cannot_be_calibrated_is_refused():
    losses = band_losses(discs([15.0] * 10), discs([15.0] * 10), ("LV cavity",), MARGINS)
    with pytest.raises(SettingError, match="19 or more"):
        calibrate_band(losses, MARGINS, classes=("LV cavity",), risk=0.05, calibrated_on="discs")
    with pytest.raises(GeometryError, match="one grid"):
        band_losses(discs([15.0]), discs([15.0], spacing=(8.0, 1.0, 1.0)), ("LV cavity",), MARGINS)
    with pytest.raises(SettingError, match="RV cavity"):
        band_losses(discs([15.0]), discs([15.0]), ("RV cavity",), MARGINS)
    flat = discs([15.0])
    with pytest.raises(GeometryError, match="spacing"):
        ContourBand(band=Band(("LV cavity",), 1, 1, "dice", 0.05, 99, ""))(replace(flat, grid=Grid.pixels((1, 40, 40))))
