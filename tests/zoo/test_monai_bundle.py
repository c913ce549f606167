"""MONAI bundles: logits beside MONAI's own transforms and inferer, and what is refused."""

import copy
import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch

from firstread.chains.models import open_segmenter
from firstread.core.errors import FormatError, UnsupportedError
from firstread.io.nifti import read

monai = pytest.importorskip("monai", reason="needs MONAI")

NETWORK = {"_target_": "monai.networks.nets.UNet", "spatial_dims": "@dims", "in_channels": 1, "out_channels": 3,
           "channels": [4, 6], "strides": [2], "norm": "instance"}
RANGE = {"_target_": "ScaleIntensityRanged", "keys": "image", "a_min": -80, "a_max": 160, "b_min": -1.0, "b_max": 1.0,
         "clip": True}
NORMAL = {"_target_": "NormalizeIntensityd", "keys": "image", "nonzero": True, "channel_wise": True}


def config(*, spacing: list[float], scaling: dict, first: bool, mode: str) -> dict:
    space = [{"_target_": "Orientationd", "keys": "image", "axcodes": "RAS"},
             {"_target_": "Spacingd", "keys": "image", "pixdim": "@pixdim", "mode": "bilinear"}]
    return {"dims": 3, "pixdim": spacing, "image_key": "image", "network_def": NETWORK,
            "network": "$@network_def.to(@device)",
            "preprocessing": {"_target_": "Compose", "transforms": [
                {"_target_": "LoadImaged", "keys": "@image_key"}, {"_target_": "EnsureChannelFirstd", "keys": "image"},
                *([scaling, *space] if first else [*space, scaling])]},
            "inferer": {"_target_": "SlidingWindowInferer", "roi_size": [16, 12, 8], "sw_batch_size": 4,
                        "overlap": 0.5, "mode": mode},
            "postprocessing": {"_target_": "Compose", "transforms": [
                {"_target_": "Activationsd", "keys": "pred", "softmax": True}]}}


def write_bundle(home: Path, settings: dict) -> Path:
    folder = home / "bundle"
    for name in ("configs", "models"):
        (folder / name).mkdir(parents=True)
    (folder / "configs" / "inference.json").write_text(json.dumps(settings))
    (folder / "configs" / "metadata.json").write_text(json.dumps({"network_data_format": {
        "inputs": {"image": {"num_channels": 1}},
        "outputs": {"pred": {"num_channels": 3, "channel_def": {"0": "background", "1": "liver", "2": "spleen"}}}}}))
    torch.manual_seed(0)
    network = monai.networks.nets.UNet(**{**{k: v for k, v in NETWORK.items() if k != "_target_"}, "spatial_dims": 3})
    torch.save({"model": network.state_dict()}, folder / "models" / "model.pt")
    return folder


@pytest.fixture
def scan(tmp_path) -> Path:
    """Obliquely named axes: stored towards P, S, L."""
    random = np.random.RandomState(3)
    x = np.abs(np.linspace(-1, 1, 21))[:, None, None] + np.abs(np.linspace(-1, 1, 18))[:, None] + np.zeros(9)
    data = (150 * (1 - x) + 20 * random.standard_normal(x.shape)).clip(0).astype(np.float32)
    affine = np.array([[0, 0, -3.0, 5], [-1.5, 0, 0, 9], [0, 1.2, 0, 2], [0, 0, 0, 1]])
    nibabel.save(nibabel.Nifti1Image(data, affine), tmp_path / "scan.nii.gz")
    return tmp_path / "scan.nii.gz"


@pytest.mark.parametrize("settings", [
    config(spacing=[2.0, 1.1, 1.3], scaling=RANGE, first=False, mode="gaussian"),
    config(spacing=[2.5, 1.5, 1.5], scaling=NORMAL, first=True, mode="constant"),
], ids=["clipped after resampling", "normalized before resampling"])
def test_says_what_monai_says(settings, scan, tmp_path):
    folder = write_bundle(tmp_path, settings)
    parser = monai.bundle.ConfigParser(settings)
    ready = parser.get_parsed_content("preprocessing")({"image": str(scan)})
    network = parser.get_parsed_content("network_def").eval()
    network.load_state_dict(torch.load(folder / "models" / "model.pt", weights_only=True)["model"])
    with torch.no_grad():
        theirs = parser.get_parsed_content("inferer")(ready["image"][None], network)[0]
        ready["pred"] = monai.data.MetaTensor(theirs.as_tensor(), meta=ready["image"].meta)
        back = monai.transforms.Invertd("pred", parser.get_parsed_content("preprocessing"), orig_keys="image",
                                        nearest_interp=False, to_tensor=True)(ready)["pred"]
        stage, image = open_segmenter(folder), read(scan)
        logits, place = stage.logits(image.data[0, 0], image)
        ours = torch.stack([place(one, torch.zeros(1)) for one in logits[0].split(1)])[:, 0]
    assert stage.classes == ("background", "liver", "spleen")
    assert back.shape[1:] == ours.permute(0, 3, 2, 1).shape[1:]
    difference = (back.as_tensor() - ours.permute(0, 3, 2, 1)).abs().max()
    assert difference < 1e-4, difference
    torch.testing.assert_close(stage(image).data[0, 0], ours.softmax(dim=0), rtol=1e-4, atol=1e-4)


def usual() -> dict:
    """A configuration that may be changed."""
    return copy.deepcopy(config(spacing=[2.0, 2.0, 2.0], scaling=RANGE, first=False, mode="gaussian"))


BROKEN = {
    "code": (lambda c: c["network_def"].update(norm="$__import__('os').abort()"), UnsupportedError, "expression"),
    "another network": (lambda c: c["network_def"].update(_target_="os.system"), UnsupportedError, "os.system"),
    "a transform": (lambda c: c["preprocessing"]["transforms"].append({"_target_": "GaussianSmoothd", "sigma": 2}),
                    UnsupportedError, "GaussianSmooth with sigma=2"),
    "no inferer": (lambda c: c.pop("inferer"), FormatError, "inferer"),
    "no window": (lambda c: c["inferer"].update(roi_size=None), UnsupportedError, "windows of None"),
    "cubic": (lambda c: c["preprocessing"]["transforms"][3].update(mode=3), UnsupportedError, "Spacing"),
    "regions": (lambda c: c["postprocessing"]["transforms"][0].update(softmax=False, sigmoid=True), UnsupportedError,
                "overlap"),
    "more channels": (lambda c: c["network_def"].update(channels=[8, 8]), FormatError, "another network"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_no_value_or_not_known_is_refused(name, tmp_path):
    edit, kind, text = BROKEN[name]
    settings = usual()
    edit(settings)
    folder = write_bundle(tmp_path, settings)
    with pytest.raises(kind, match=text) as caught:
        open_segmenter(folder)
    assert "\n" not in str(caught.value)


def test_a_cut_model_says_so(tmp_path):
    folder = write_bundle(tmp_path, usual())
    model = folder / "models" / "model.pt"
    model.write_bytes(model.read_bytes()[:-300])
    with pytest.raises(FormatError, match="cut-off"):
        open_segmenter(folder)


def test_torchscript_in_a_bundle_needs_no_monai(tmp_path):
    settings = usual()
    del settings["network_def"]
    folder = write_bundle(tmp_path, settings)
    (folder / "models" / "model.pt").unlink()
    torch.jit.script(torch.nn.Conv3d(1, 3, 1)).save(str(folder / "models" / "model.ts"))
    assert open_segmenter(folder).classes == ("background", "liver", "spleen")
