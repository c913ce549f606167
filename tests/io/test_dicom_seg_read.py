"""DICOM SEG as labels: objects that highdicom wrote, on grids turned and cropped, and what does not fit."""

from dataclasses import replace

import highdicom
import numpy as np
import pydicom
import pytest
import torch
from dicom_files import Cine, uid
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.sr.coding import Code

from firstread.core.errors import FormatError, GeometryError
from firstread.core.records import HardLabels
from firstread.io.dicom.seg import write_seg
from firstread.io.dicom.seg_read import grid_of, open_seg, place_seg, seg_files
from firstread.io.open import read

ANATOMY = Code("91723000", "SCT", "Anatomical Structure")
TURNED = (0.6, 0.8, 0, 0, 0, -1)


def describe(number, label):
    return highdicom.seg.SegmentDescription(
        segment_number=number, segment_label=label, segmented_property_category=ANATOMY,
        segmented_property_type=Code("10200004", "SCT", "Liver"),
        algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.MANUAL)


def write(path, sources, masks, labels, kind="BINARY", **options):
    """An object of the frames ``masks [slice, y, x, segment]``, as another program writes it."""
    seg = highdicom.seg.Segmentation(
        source_images=sources, pixel_array=masks, segmentation_type=kind,
        segment_descriptions=[describe(n, label) for n, label in enumerate(labels, start=1)],
        series_instance_uid=uid("their"), series_number=2, sop_instance_uid=highdicom.UID(), instance_number=1,
        manufacturer="Other", manufacturer_model_name="Other", software_versions="1", device_serial_number="1",
        **options)
    path.parent.mkdir(exist_ok=True, parents=True)
    seg.save_as(path)
    return path


@pytest.fixture(scope="module")
def scan(tmp_path_factory):
    """An image of four oblique slices, its headers from the last slice to the first, and labels of two classes."""
    home = tmp_path_factory.mktemp("scan")
    paths = Cine(phases=1, slices=4, orientation=TURNED).write(home / "in")
    image = read(home / "in").case["image"]
    sources = [pydicom.dcmread(path) for path in paths]
    normal = np.cross(TURNED[:3], TURNED[3:])
    sources.sort(key=lambda d: -float(np.array(d.ImagePositionPatient, float) @ normal))
    shape = tuple(image.data.shape[-3:])
    label = torch.randint(0, 3, shape, generator=torch.Generator().manual_seed(1), dtype=torch.int32)
    label[1] = 0  # a plane that no frame shows
    order = [round(float(image.grid.to_index(torch.tensor([[list(map(float, d.ImagePositionPatient))]],
                                                          dtype=torch.float64))[0, 0, 2])) for d in sources]
    masks = np.stack([(label[order] == n).numpy() for n in (1, 2)], axis=-1)
    return image, sources, masks, label


@pytest.mark.parametrize("kind", ["BINARY", "FRACTIONAL", "LABELMAP"])
def test_masks_of_highdicom_come_back(scan, tmp_path, kind):
    image, sources, masks, label = scan
    given = masks.astype(np.float32) if kind == "FRACTIONAL" else masks.astype(np.uint8)
    if kind == "FRACTIONAL":
        given = given * 0.9 + (1 - given) * 0.3
    file = open_seg(write(tmp_path / "a.dcm", sources, given, ["liver", "tumour"], kind))
    assert file.segments == {1: "liver", 2: "tumour"}
    made = place_seg([file], image.grid, {"liver": 1, "tumour": 7})
    assert torch.equal(made, torch.where(label == 2, 7, label))


@settings(max_examples=12, deadline=None)
@given(order=st.permutations([0, 1, 2]), flips=st.sets(st.sampled_from("zyx")), seed=st.integers(0, 100))
def test_any_axes_and_any_order_of_frames(scan, tmp_path_factory, order, flips, seed):
    image, sources, masks, label = scan
    path = write(tmp_path_factory.mktemp("seg") / "a.dcm", sources, masks.astype(np.uint8), ["a", "b"])
    file = open_seg(path)
    shuffled = replace(file, frames=tuple(np.random.default_rng(seed).permutation(np.array(file.frames, object))))
    grid, turned = image.grid.permute(tuple(order)), label.permute(*order)
    for axis in sorted(flips):
        grid, turned = grid.flip(axis), turned.flip("zyx".index(axis))
    assert torch.equal(place_seg([shuffled], grid, {"a": 1, "b": 2}), turned)


def test_what_we_write_is_read(tmp_path):
    Cine(orientation=TURNED).write(tmp_path / "in")
    image = read(tmp_path / "in").case["image"]
    data = torch.randint(0, 3, (1, image.data.shape[1], 1, *image.data.shape[3:]), dtype=torch.uint8)
    labels = HardLabels(image.rows, data, image.grid, ("background", "LV cavity", "liver"), source=image.source)
    (tmp_path / "out").mkdir()
    written = write_seg(labels, image.source, tmp_path / "out")
    assert seg_files(tmp_path / "out") == sorted(written) and seg_files(tmp_path / "in") == []
    for phase, path in enumerate(written):
        made = place_seg([open_seg(path)], image.grid, {"LV cavity": 1, "liver": 2})
        assert torch.equal(made, data[0, phase, 0].int())


def test_a_grid_of_its_own_keeps_planes_without_frames(scan, tmp_path):
    image, sources, masks, label = scan
    path = write(tmp_path / "a.dcm", sources, masks.astype(np.uint8), ["a", "b"])
    file = open_seg(path)
    assert len(file.frames) == 6  # three planes of two segments: the empty plane was left out
    grid = grid_of([file])
    assert grid.shape == image.grid.shape
    torch.testing.assert_close(grid.voxel_ml, image.grid.voxel_ml)
    made = place_seg([file], grid, {"a": 1, "b": 2})
    assert torch.unique(made, return_counts=True)[1].tolist() == torch.unique(label, return_counts=True)[1].tolist()


def test_what_does_not_fit_is_refused_in_one_sentence(scan, tmp_path):
    image, sources, masks, _ = scan
    file = open_seg(write(tmp_path / "a.dcm", sources, masks.astype(np.uint8), ["a", "b"]))
    values = {"a": 1, "b": 2}
    moved = image.grid.affine.clone()
    moved[:, :3, 3] += 0.4
    with pytest.raises(GeometryError, match="do not fall onto"):
        place_seg([file], replace(image.grid, affine=moved), values)
    coarse = image.grid.resize((image.grid.shape[0], image.grid.shape[1] // 2, image.grid.shape[2] // 2))
    with pytest.raises(GeometryError, match="do not fall onto"):
        place_seg([file], coarse, values)
    part = image.grid.crop((0, 0, 0), (2, *image.grid.shape[1:]))
    with pytest.raises(GeometryError, match="outside the image"):
        place_seg([file], part, values)
    with pytest.raises(GeometryError, match="place in the patient"):
        place_seg([file], replace(image.grid, frame="none"), values)
    both = np.ones_like(masks[:, :, :, :2], np.uint8)
    overlapping = open_seg(write(tmp_path / "b.dcm", sources, both, ["a", "b"]))
    with pytest.raises(FormatError, match="both in 'a' and in 'b'"):
        place_seg([overlapping], image.grid, values)
    assert bool((place_seg([overlapping], image.grid, {"a": 3, "b": 3}) == 3).all())  # one class of two segments


def test_damaged_files(scan, tmp_path):
    image, sources, masks, _ = scan
    path = write(tmp_path / "a.dcm", sources, masks.astype(np.uint8), ["a", "b"])
    whole = pydicom.dcmread(path)
    del whole.PerFrameFunctionalGroupsSequence[1].PlanePositionSequence
    whole.save_as(tmp_path / "placeless.dcm")
    with pytest.raises(FormatError, match="placeless"):
        open_seg(tmp_path / "placeless.dcm")
    (tmp_path / "cut.dcm").write_bytes(path.read_bytes()[:-200])
    with pytest.raises(FormatError, match=r"cut\.dcm"):
        place_seg([open_seg(tmp_path / "cut.dcm")], image.grid, {"a": 1, "b": 2})
    whole = pydicom.dcmread(path)
    whole.PerFrameFunctionalGroupsSequence[0].SegmentIdentificationSequence[0].ReferencedSegmentNumber = 9
    whole.save_as(tmp_path / "strange.dcm")
    with pytest.raises(FormatError, match="segment 9"):
        place_seg([open_seg(tmp_path / "strange.dcm")], image.grid, {"a": 1, "b": 2})


def test_the_liver_of_a_real_file(realdata):
    file = open_seg(realdata / "dicom" / "liver.dcm")
    grid = grid_of([file])
    made = place_seg([file], grid, {label: number for number, label in file.segments.items()})
    assert grid.shape[0] == len({frame.origin for frame in file.frames})
    assert int((made > 0).sum()) == int(pydicom.dcmread(file.path).pixel_array.sum())
