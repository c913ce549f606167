"""The page of risk control: margins and risks of subjects whose losses follow a known law; losses of moved discs."""

import pytest
import torch

from firstread.core.errors import SettingError
from firstread.core.geometry import Grid
from firstread.core.records import HardLabels, Rows
from firstread.recipes.evidence_risk_control import border, main, structure_losses
from firstread.recipes.risk_tables import MARGINS, Losses, controlled, over_splits, page

WHAT = ("missed", "claimed", "distant")


def made(seed, count, *, times=1.0):
    """Losses that fall as exp(-margin / scale), a scale for each subject; at most 1."""
    draw = torch.Generator().manual_seed(seed)
    margins = torch.tensor(MARGINS)
    rows = []
    for _ in range(count):
        losses = (0.15 * times * (0.5 + torch.rand((), generator=draw)) * torch.exp(-margins / 3)).clamp_max(1.0)
        size = (1 + 0.05 * margins).tolist()
        rows.append({"LV cavity": {**dict.fromkeys(WHAT, losses.tolist()), "outer": size, "inner": size[::-1]}})
    return Losses(rows)


def test_the_mean_over_splits_keeps_the_risk_and_a_harder_scanner_does_not():
    risks = over_splits(made(0, 80), "LV cavity", "missed", splits=60)
    assert 0.06 < sum(risks) / len(risks) <= 0.1
    same, harder = (controlled(made(1, 60), made(2, 60, times=times), "LV cavity", "missed") for times in (1.0, 3.0))
    assert same.margin_mm == harder.margin_mm and same.risk.lower < same.risk.value < same.risk.upper < 0.11
    assert harder.risk.lower > 0.15 and same.plain > same.risk.value and same.volume > 1


def test_the_page_shows_all_rows_and_too_few_subjects_are_an_error():
    text = page(made(0, 40), made(1, 60), {"noisy": made(2, 12, times=2.0)}, command="python -m …")
    assert text.count("| split ") == 1 + 3 * len(WHAT) and text.count("| noisy |") == len(WHAT)
    assert "60 subjects of the test family, 40 of the calibration family" in text
    with pytest.raises(SettingError, match="9 or more"):
        page(made(0, 8), made(1, 60), {}, command="…")


def disc(shift):
    y, x = torch.meshgrid(torch.arange(32.0) - 16, torch.arange(32.0) - 16 - shift, indexing="ij")
    data = (x**2 + y**2 < 49).to(torch.uint8)[None, None, None, None].repeat(1, 2, 1, 1, 1, 1)
    return HardLabels(Rows.subjects(1), data, Grid.from_spacing((1, 32, 32), (8.0, 2.0, 2.0)),
                      ("background", "LV cavity"))


def test_losses_of_a_disc_that_lies_beside_its_truth():
    found = {shift: structure_losses(disc(shift), disc(0), "LV cavity") for shift in (0, 2)}
    zero, four = MARGINS.index(0.0), MARGINS.index(4.0)
    assert found[0]["missed"][zero] == found[0]["claimed"][zero] == found[0]["distant"][zero] == 0
    assert found[2]["missed"][zero] == pytest.approx(found[2]["claimed"][zero]) and found[2]["missed"][zero] > 0.1
    assert found[2]["missed"][four] == found[2]["distant"][four] == 0 and found[2]["distant"][zero] > 0.7
    assert found[2]["outer"][zero] == found[2]["truth"][0] == 1
    assert int(border(disc(0).data[0, 0, 0] > 0, (2.0, 2.0)).sum()) == 36


def test_a_missing_cache_is_one_sentence(tmp_path, capsys):
    assert main(["-o", str(tmp_path), "--cache", str(tmp_path / "none")]) == 2
    assert "no folder none" in capsys.readouterr().err
    assert main(["-o", str(tmp_path), "--cache", str(tmp_path), "--shifted", "2"]) == 2
    assert "2 of each other scanner" in capsys.readouterr().err
