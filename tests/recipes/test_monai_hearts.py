"""The example of a network of one's own: trained by the tool on simulated hearts, it joins the chain."""

import nibabel

from firstread.recipes import monai_hearts
from firstread.recipes.endpoint import Setting, chain_of, first_parts
from firstread.recipes.endpoint_pool import Stack, case_of, store_all

STACK = Stack(lines=48, columns=40, frames=4, slices=2, spacing_mm=5.0)


def test_images_and_labels_are_those_of_the_subject(tmp_path, monkeypatch):
    path = store_all(tmp_path, STACK, "train", 1)[0]
    home = monai_hearts.write_data([path], tmp_path / "data")
    case = case_of(path, seed=0)
    for part, name in (("images", "truth.image"), ("labels", "truth.labels")):
        stored = nibabel.load(home / part / f"{path.stem}_ED.nii.gz").get_fdata()
        truth = case[name].data[0, 0, 0].abs()
        assert stored.shape == tuple(reversed(truth.shape)) and abs(stored.sum() - float(truth.sum())) < 1e-3
    volumes = [(nibabel.load(home / "labels" / f"{path.stem}_{phase}.nii.gz").get_fdata() == 1).sum()
               for phase in ("ED", "ES")]
    assert 0 < volumes[1] < volumes[0]


def test_trained_by_the_tool_it_joins_the_chain(tmp_path, monkeypatch):
    monkeypatch.setattr(monai_hearts, "Stack", lambda: STACK)
    model = monai_hearts.train(tmp_path, subjects=1, steps=1)
    setting = Setting(stack=STACK, coils=3, iterations=2, network=str(model))
    chain = chain_of(first_parts(setting, seed=0), setting)
    done = chain(case_of(tmp_path / "subjects" / f"train-0000-{STACK.label()}.npz", seed=0))
    assert done["labels.members"].names[1] == "LV cavity" and done["phenotypes"]["LVEF"].unit == "%"
    assert monai_hearts.train(tmp_path, subjects=1, steps=1) == model, "the same command again changes nothing"
