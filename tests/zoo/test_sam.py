"""Segment Anything: the same numbers as the original and as Hugging Face, from files of either; other files refused."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tiny_sam import (
    BOX,
    CHANNELS,
    DEPTH,
    HEADS,
    HIDDEN,
    POINTS,
    SIGNS,
    SIZE,
    WHOLE,
    WIDTH,
    WINDOW,
    before,
    filled,
    picture,
)

from firstread.analyze.prompted import SegmentPrompted
from firstread.analyze.sam import PromptedSam
from firstread.chains.prompted import open_promptable
from firstread.core.errors import FormatError, InputError, SettingError
from firstread.core.geometry import Grid
from firstread.core.prompts import Prompts
from firstread.core.records import Image, Rows
from firstread.nets.sam import Sam, SamShape
from firstread.zoo.sam import read_sam

SHAPE = SamShape(SIZE, 16, WIDTH, DEPTH, HEADS, WINDOW, WHOLE, CHANNELS, HIDDEN)
STORED = Path(__file__).parents[1] / "reference" / "sam_outputs.npz"


@pytest.fixture(scope="module")
def stored():
    with np.load(STORED) as file:
        return dict(file)


def parameters(names) -> dict[str, torch.Tensor]:
    """As stored, ``name 1,2,3`` each."""
    return filled({name: tuple(int(n) for n in sizes.split(",")) for name, sizes in map(str.split, names.tolist())})


@pytest.fixture(scope="module")
def checkpoint(stored, tmp_path_factory):
    path = tmp_path_factory.mktemp("sam") / "sam_vit_tiny.pth"
    torch.save(parameters(stored["original_names"]), path)
    return path


@pytest.mark.parametrize(("case", "said"), [
    ("points", {}), ("box", {"points": POINTS[:0], "positive": SIGNS[:0], "box": BOX}),
    ("both", {"box": BOX, "before": before()})])
def test_the_original_says_the_same(stored, checkpoint, case, said):
    network = read_sam(checkpoint)
    assert network.shape == SHAPE
    with torch.no_grad():
        embedding = network.embed(picture())
        masks, overlap = network.masks(embedding, **{"points": POINTS, "positive": SIGNS, **said})
    assert np.abs(embedding.numpy() - stored["original_embedding"]).max() < 1e-4
    reference = stored[f"original_{case}_masks"]
    assert np.abs(masks.numpy() - reference).max() < 1e-4 * np.abs(reference).max()
    assert np.abs(overlap.numpy() - stored[f"original_{case}_overlap"]).max() < 1e-4


def test_a_hugging_face_folder_says_what_its_program_says(stored, tmp_path):
    state = parameters(stored["hf_names"])
    shared = "prompt_encoder.shared_embedding.positional_embedding"
    if shared in state:
        state[shared] = state["shared_image_embedding.positional_embedding"].clone()
    save_file(state, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "sam"}))
    network = read_sam(tmp_path)
    with torch.no_grad():
        masks, overlap = network.masks(network.embed(picture()), points=POINTS, positive=SIGNS)
    reference = stored["hf_points_masks"]
    assert np.abs(masks[1:].numpy() - reference).max() < 1e-3 * np.abs(reference).max()
    assert np.abs(overlap[1:].numpy() - stored["hf_points_overlap"]).max() < 1e-3


def test_sizes_of_the_published_networks_are_read_off_their_parameters():
    with torch.device("meta"):
        state = Sam().state_dict()
    assert SamShape.of(state) == SamShape()
    assert sum(v.numel() for v in state.values()) == 93_735_728  # ViT-B's 93 735 472 and 256 fixed frequencies


def image(height=20, width=26, slices=1):
    data = torch.linspace(0, 1, slices * height * width).reshape(1, 1, 1, slices, height, width)
    return Image(Rows.subjects(1), data.sin(), Grid.from_spacing((slices, height, width), (5.0, 1.0, 1.0)))


@pytest.mark.parametrize(("prepared", "said"), [
    ("sam", {"points": [(4, 5, 0)]}), ("sam", {"boxes": [(3, 3, 0, 20, 15, 0)]}),
    ("medsam", {"boxes": [(3, 3, 0, 20, 15, 0)]})])
def test_it_is_a_method_whose_gradient_reaches_the_image(checkpoint, prepared, said):
    given = image()
    leaf = given.data.clone().requires_grad_()
    method = open_promptable(checkpoint, prepared=prepared)
    made = SegmentPrompted(method=method)(Image(given.rows, leaf, given.grid), Prompts.on_grid(given.grid, **said))
    made.data[:, :, 1].sum().backward()
    assert made.data.shape == (1, 1, 2, 1, 20, 26)
    assert bool(torch.isfinite(leaf.grad).all()) and leaf.grad.abs().sum() > 0


def test_places_are_the_same_before_and_after_scaling():
    """A box in the image is where the network's own picture has it: a stand-in answers with the box it was told."""
    class Told(Sam):
        def embed(self, picture):
            return picture

        def masks(self, embedding, *, points, positive, box=None, before=None):
            x0, y0, x1, y1 = (box / 4).tolist()
            y, x = torch.meshgrid(torch.arange(32.0) + 0.5, torch.arange(32.0) + 0.5, indexing="ij")
            inside = (x >= x0) & (x <= x1) & (y >= y0) & (y <= y1)
            return (20.0 * inside - 10).expand(4, 32, 32), torch.ones(4)

    given = image(64, 40)
    for prepared in ("sam", "medsam"):
        stage = SegmentPrompted(method=PromptedSam(network=Told(SHAPE), prepared=prepared))
        mask = stage(given, Prompts.on_grid(given.grid, boxes=[(8, 16, 0, 28, 48, 0)])).data[0, 0, 1, 0] > 0.5
        rows, columns = mask.any(1).nonzero().flatten(), mask.any(0).nonzero().flatten()
        for place, wanted in zip((rows[0], rows[-1], columns[0], columns[-1]), (16, 47, 8, 27), strict=True):
            assert abs(int(place) - wanted) <= 1


def test_what_medsam_does_not_know_is_said(checkpoint):
    given = image()
    method = open_promptable(checkpoint, prepared="medsam")
    with pytest.raises(SettingError, match="boxes alone"):
        SegmentPrompted(method=method)(given, Prompts.on_grid(given.grid, points=[(4, 5, 0)]))
    assert open_promptable(checkpoint).prepared == "sam"


def test_other_files_are_refused(checkpoint, tmp_path):
    state = torch.load(checkpoint, weights_only=True)
    bad = {"lacking.pth": {k: v for k, v in state.items() if "iou_token" not in k}, "more.pth": {**state, "x": state[
        "image_encoder.pos_embed"]}, "other.pth": {"conv.weight": torch.zeros(3)}, "list.pth": [1, 2],
           "size.pth": {**state, "mask_decoder.iou_token.weight": torch.zeros(1, 5)}}
    for name, content in bad.items():
        torch.save(content, tmp_path / name)
        with pytest.raises(FormatError):
            read_sam(tmp_path / name)
    torch.save({"weights": checkpoint}, tmp_path / "code.pth")  # a path is an object: opening it would run code
    (tmp_path / "cut.pth").write_bytes(checkpoint.read_bytes()[:2000])
    (tmp_path / "cut.safetensors").write_bytes(b"123")
    (tmp_path / "text.pth").write_text("hello")
    for name in ("code.pth", "cut.pth", "cut.safetensors", "text.pth"):
        with pytest.raises(FormatError):
            read_sam(tmp_path / name)
    for missing in (tmp_path / "none.pth", tmp_path):
        with pytest.raises(InputError):
            read_sam(missing)
    torch.save({"model": state, "epoch": 3}, tmp_path / "trained.pth")
    assert read_sam(tmp_path / "trained.pth").shape == SHAPE
