"""TorchScript and ONNX files as segmenters."""

import json

import pytest
import torch
from cases import blob

from firstread.chains.models import open_segmenter

STATED = {"axes": "yx", "spacing_mm": [1.5, 1.5], "window": [16, 16], "intensity": [{"scheme": "zscore"}],
          "classes": ["background", "bright"]}


class Brightness(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat((-x, x), dim=1)


@pytest.fixture
def scripted(tmp_path):
    torch.jit.script(Brightness()).save(str(tmp_path / "net.ts"))
    (tmp_path / "net.json").write_text(json.dumps(STATED))
    return tmp_path / "net.ts"


def test_torchscript_says_what_its_formula_says(scripted):
    image = blob(frames=2)
    stage = open_segmenter(scripted)
    labels = stage(image)
    value = image.data.abs()
    frame = (2, 3, 4, 5)
    scaled = (value - value.mean(frame, keepdim=True)) / value.std(frame, correction=0, keepdim=True)
    torch.testing.assert_close(labels.data[:, :, 1:], torch.sigmoid(2 * scaled[:, :, :1]), rtol=1e-4, atol=1e-4)
    assert stage.classes == labels.names == ("background", "bright")
    assert labels.grid.same_as(image.grid)
