"""The heart chain keeps intervals from an image unlike those of the calibration cases, and stores how it knows."""

import json
from dataclasses import replace

import pytest
import torch

from firstread.acquire.heart import example_subject
from firstread.chains.heart import SEGMENTATION, calibration_of, heart_chain, segmentation
from firstread.core.errors import FormatError
from firstread.core.records import Image
from firstread.trust.intervals import Calibration


def magnitude() -> Image:
    image = example_subject().image
    generator = torch.Generator().manual_seed(0)
    data = image.data.abs()
    noise = 0.02 * data.max() * torch.randn(2, *data.shape, generator=generator)
    return replace(image, data=torch.hypot(data + noise[0], noise[1]))


@pytest.mark.parametrize(("power", "refused"), [(1.0, False), (0.2, True)])
def test_intervals_are_refused_for_a_flat_contrast_alone(power, refused):
    image = magnitude()
    chain = heart_chain(raw=False)
    with torch.no_grad():
        found = chain(replace(image, data=image.data**power))["phenotypes"]
    assert torch.isfinite(found["LVEF"].value).all()
    assert bool(torch.isnan(found["LVEF"].lower).all()) is refused
    codes = {note.code: note.text for note in found.notes}
    assert codes.get("shifted_input", "").startswith("No intervals: the input of subject 0 is unlike") is refused


def test_what_the_guard_knows_survives_its_file(tmp_path):
    stored = calibration_of(segmentation(SEGMENTATION), "images")
    stored.save(tmp_path / "again.json")
    again = Calibration.load(tmp_path / "again.json")
    features = torch.randn(5, len(stored.novelty.names), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(again.novelty.p_value(features), stored.novelty.p_value(features), equal_nan=True)
    data = json.loads((tmp_path / "again.json").read_text())
    data["novelty"]["precision"] = [[1.0]]
    (tmp_path / "again.json").write_text(json.dumps(data))
    with pytest.raises(FormatError, match="novelty of 6 features"):
        Calibration.load(tmp_path / "again.json")
