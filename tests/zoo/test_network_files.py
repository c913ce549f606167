"""TorchScript and ONNX files as segmenters, and what must stand beside them."""

import json
from pathlib import Path

import pytest
import torch
from samples import blob

from firstread.analyze import foreign
from firstread.chains.models import open_segmenter
from firstread.core.errors import (
    FirstreadError,
    FormatError,
    GeometryError,
    GradientError,
    InputError,
    SettingError,
    UnsupportedError,
)
from firstread.core.geometry import Grid
from firstread.core.records import Image
from firstread.core.stage import Chain

STATED = {"axes": "yx", "spacing_mm": [1.5, 1.5], "window": [16, 16], "intensity": [{"scheme": "zscore"}],
          "classes": ["background", "bright"]}


class Brightness(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat((-x, x), dim=1)


def _varint(value: int) -> bytes:
    return bytes([value]) if value < 128 else bytes([value & 127 | 128]) + _varint(value >> 7)


def _text(field: int, content: bytes | str) -> bytes:
    content = content.encode() if isinstance(content, str) else content
    return _varint(field << 3 | 2) + _varint(len(content)) + content


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _tensor(name: str) -> bytes:
    shape = b"".join(_text(1, _text(2, axis)) for axis in ("batch", "channel", "y", "x"))
    return _text(1, name) + _text(2, _text(1, _number(1, 1) + _text(2, shape)))


def brightness_onnx() -> bytes:
    """The graph of Brightness, spelled out: Concat(Neg(x), x) along axis 1."""
    negative = _text(1, "x") + _text(2, "minus") + _text(4, "Neg")
    both = _text(1, "minus") + _text(1, "x") + _text(2, "y") + _text(4, "Concat")
    both += _text(5, _text(1, "axis") + _number(3, 1) + _number(20, 2))
    graph = _text(1, negative) + _text(1, both) + _text(2, "brightness") + _text(11, _tensor("x"))
    return _number(1, 8) + _text(7, graph + _text(12, _tensor("y"))) + _text(8, _number(2, 13))


@pytest.fixture
def scripted(tmp_path) -> Path:
    torch.jit.script(Brightness()).save(str(tmp_path / "net.ts"))
    (tmp_path / "net.json").write_text(json.dumps(STATED))
    return tmp_path / "net.ts"


@pytest.fixture
def onnx(tmp_path) -> Path:
    pytest.importorskip("onnxruntime", reason="needs onnxruntime")
    (tmp_path / "net.onnx").write_bytes(brightness_onnx())
    (tmp_path / "model.json").write_text(json.dumps(STATED))
    return tmp_path / "net.onnx"


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


def test_a_slow_network_says_how_far_it_is(scripted, monkeypatch):
    monkeypatch.setattr(foreign, "EVERY_S", -1.0)
    stage, heard = open_segmenter(scripted), []
    stage.watch = heard.append
    stage(blob(frames=2))
    assert heard == ["1 of 2 frames", "2 of 2 frames"]


def test_volumes_seen_as_xyz_and_turned_to_ras_come_back_in_place(tmp_path):
    """A network that marks where x grows says the same of an image stored the other way round."""
    class Ramp(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            ramp = torch.linspace(-1, 1, x.shape[2])[:, None, None].expand(x.shape[2], x.shape[3], x.shape[4])
            return torch.cat((-x * ramp, x * ramp), dim=1)

    torch.jit.script(Ramp()).save(str(tmp_path / "net.ts"))
    stated = {**STATED, "axes": "xyz", "spacing_mm": None, "window": [24, 24, 1], "orientation": "RAS",
              "intensity": [{"scheme": "fixed"}]}
    stage, image = open_segmenter(tmp_path / "net.ts", stated=stated), blob(frames=1)
    one = stage(image)
    turned = Image(image.rows, image.data.flip(-1).transpose(-1, -2), image.grid.flip("x").permute((0, 2, 1)),
                   image.times_s)
    other = stage(turned)
    torch.testing.assert_close(other.data.transpose(-1, -2).flip(-1), one.data)
    left, right = one.data[0, 0, 1, 0, 12, -8:].mean(), one.data[0, 0, 1, 0, 12, :8].mean()  # the image's x is left
    assert float(right) > 0.6 and float(left) < 0.5
    with pytest.raises(GeometryError, match="orientation"):
        stage(Image(image.rows, image.data, Grid.pixels(image.grid.shape)))


def test_onnx_says_what_torchscript_says(scripted, onnx):
    image = blob(frames=2)
    stage = open_segmenter(onnx)
    torch.testing.assert_close(stage(image).data, open_segmenter(scripted)(image).data)
    assert not stage.differentiable and len(stage.state_dict()) == 1


def test_a_gradient_asked_through_onnx_names_the_stage(onnx):
    image = blob(frames=1)
    leaf = image.data.clone().requires_grad_()
    case = Chain(open_segmenter(onnx))(Image(image.rows, leaf, image.grid, image.times_s))
    with pytest.raises(GradientError, match="foreign_segment"):
        case["labels"].data[:, :, 1].sum().backward()


def test_bfloat16_says_nearly_the_same_and_passes_a_gradient(scripted):
    image = blob(frames=1)
    leaf = image.data.clone().requires_grad_()
    made = open_segmenter(scripted, precision=torch.bfloat16)(Image(image.rows, leaf, image.grid, image.times_s))
    torch.testing.assert_close(made.data, open_segmenter(scripted)(image).data, rtol=0.02, atol=0.01)
    assert made.data.dtype == torch.float32
    made.data[:, :, 1].sum().backward()
    assert float(leaf.grad.abs().max()) > 0


def test_a_graph_that_computes_as_stored_has_no_bfloat16(onnx):
    with pytest.raises(SettingError, match=r"net\.onnx in torch\.bfloat16"):
        open_segmenter(onnx, precision=torch.bfloat16)


def without(key: str) -> dict:
    return {name: value for name, value in STATED.items() if name != key}


@pytest.mark.parametrize("stated, text", [
    (without("spacing_mm"), "without spacing_mm"), (without("classes"), "without classes"),
    ({**STATED, "colour": 1}, "with colour"), ({**STATED, "axes": "yy"}, "axes"),
    ({**STATED, "window": [16, 16, 16]}, "window"), ({**STATED, "outputs": "argmax"}, "argmax"),
    ({**STATED, "intensity": [{"scheme": "magic"}]}, "magic"), ({**STATED, "spacing_mm": [0, 1]}, "spacing"),
    ({**STATED, "overlap": 1.5}, "overlap"), ({**STATED, "mirror": [2]}, "mirrored"), ({**STATED, "order": 2}, "order"),
])
def test_what_is_stated_wrongly_is_named(scripted, stated, text):
    with pytest.raises(InputError, match=text) as caught:
        open_segmenter(scripted, stated=stated)
    assert "\n" not in str(caught.value)


def test_what_is_not_stated_is_asked_for_with_an_example(scripted):
    scripted.with_suffix(".json").unlink()
    with pytest.raises(InputError, match=r'net.json or model.json beside it; write one such as \{"axes": "zyx"'):
        open_segmenter(scripted)


def test_files_that_are_no_networks_are_refused(scripted, tmp_path):
    def stated(name: str) -> Path:
        (tmp_path / name).with_suffix(".json").write_text(json.dumps(STATED))
        return tmp_path / name

    torch.save({"weight": torch.ones(3)}, stated("state.pt"))
    with pytest.raises(UnsupportedError, match="parameters without their network"):
        open_segmenter(tmp_path / "state.pt")
    stated("cut.ts").write_bytes(scripted.read_bytes()[:-200])
    with pytest.raises(FormatError, match="cut-off"):
        open_segmenter(tmp_path / "cut.ts")
    stated("empty.ts").write_bytes(b"")
    with pytest.raises(FormatError, match="cut-off"):
        open_segmenter(tmp_path / "empty.ts")
    (tmp_path / "cut.json").write_text("{")
    with pytest.raises(FormatError, match="JSON"):
        open_segmenter(tmp_path / "cut.ts")
    for nothing in (tmp_path / "nowhere", tmp_path / "nowhere.ts", tmp_path):
        with pytest.raises(InputError):
            open_segmenter(nothing)


def test_a_damaged_graph_is_refused(onnx):
    onnx.write_bytes(onnx.read_bytes()[:20])
    with pytest.raises(FormatError, match="onnxruntime cannot load"):
        open_segmenter(onnx)


def test_outputs_that_do_not_fit_the_classes_are_named(scripted):
    stage = open_segmenter(scripted, stated={**STATED, "classes": ["background", "a", "b"]})
    with pytest.raises(SettingError, match="2 outputs for the classes background, a, b"):
        stage(blob(frames=1))


def test_a_network_that_cannot_take_the_window_says_so(tmp_path):
    torch.jit.script(torch.nn.Conv2d(3, 2, 1)).save(str(tmp_path / "net.ts"))
    stage = open_segmenter(tmp_path / "net.ts", stated=STATED)
    with pytest.raises(FirstreadError, match=r"1 channels in windows of \(16, 16\) .*3 channels"):
        stage(blob(frames=1))
