"""reading.html: self-contained, escaped, within its size, and saying what it must."""

import html.parser
import json
import re
from dataclasses import replace

import pytest
import torch
from fake_reading import NASTY, SCRIPT, phenotypes, reading

from firstread.core.reading import Person
from firstread.core.records import Image, Rows
from firstread.io.dicom.source import DicomSource
from firstread.report.page import page
from firstread.report.write import PAGE_BYTES, write

WOMAN = Person(sex="F", age_years=58.0, height_cm=168.0, weight_kg=66.0)


class Outline(html.parser.HTMLParser):
    """The tags, attributes and visible text of a page."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.scripts: list[str] = []
        self.inside: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.inside.append(tag)

    def handle_endtag(self, tag):
        while self.inside and self.inside.pop() != tag:
            continue

    def handle_data(self, data):
        last = self.inside[-1] if self.inside else ""
        (self.scripts if last == "script" else self.text).append(data)

    @property
    def seen(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.text))


def test_no_network_and_scripts_by_hash_alone():
    text = page(reading(size=48, slices=3, raw=True, person=WOMAN))
    outline = Outline(text)
    for _, attributes in outline.tags:
        for name in ("src", "href", "srcset", "action", "data"):
            target = attributes.get(name)
            assert target is None or target.startswith(("data:", "#")), target
        assert not any(name.startswith("on") for name in attributes)
    policy = next(a["content"] for tag, a in outline.tags if tag == "meta" and a.get("http-equiv"))
    assert "default-src 'none'" in policy and "script-src 'sha256-" in policy
    assert "url(" not in re.sub(r"url\(#\w+\)", "", text) and "@import" not in text
    assert "fetch(" not in text and "XMLHttpRequest" not in text


@pytest.mark.parametrize("evil", [SCRIPT, NASTY])
def test_nothing_breaks_out_of_its_place(evil):
    named = reading(size=32, slices=2, input_name=evil, kind=evil, person=Person(name=evil, identifier=evil))
    outline = Outline(page(replace(named, input_hash=evil, versions={evil: evil})))
    assert [tag for tag, _ in outline.tags].count("script") == 2
    assert not any(tag == "img" and a.get("src") == "x" for tag, a in outline.tags)
    assert evil in outline.seen
    json.loads(outline.scripts[0])
    assert "49" not in outline.seen.split("Firstread", 1)[1][:20]


def test_the_data_island_cannot_be_closed_from_inside():
    one = reading(size=32, slices=2)
    labels = replace(one.case["labels"], names=("background", NASTY, SCRIPT, "third"))
    case = replace(one.case, records={**one.case.records, "labels": labels})
    outline = Outline(page(replace(one, case=case)))
    assert [tag for tag, _ in outline.tags].count("script") == 2
    assert json.loads(outline.scripts[0])["cine"]["contours"][0]["name"] == NASTY


def test_the_person_is_named_only_where_the_reading_names_them():
    assert "Doe^Jane" in page(reading(size=32, slices=2, person=Person(name="Doe^Jane")))
    assert ">Name<" not in page(reading(size=32, slices=2, person=WOMAN))


def test_ranges_need_sex_and_indexed_values_need_size():
    known = Outline(page(reading(size=32, slices=2, person=WOMAN))).seen
    assert "Healthy women" in known and "80 – 175" in known and "50 – 101" in known and "Petersen" in known
    unknown = Outline(page(reading(size=32, slices=2))).seen
    assert "80 – 175" not in unknown and "Healthy" not in unknown
    assert "sex is not known" in unknown and "height and weight are not known" in unknown
    man = Outline(page(reading(size=32, slices=2, person=Person(sex="M")))).seen
    assert "93 – 232" in man and "52 – 117" not in man


def test_it_says_what_it_is_and_what_it_lacks():
    seen = Outline(page(reading(size=32, slices=2))).seen
    for words in ("Not for clinical use", "calibrated on simulation", "No endocardial contour falls into this segment.",
                  "Trigger times were missing", "9f2c4e11ab037d55", "c0ffee", "density_g_per_ml=1.05", "Seed", "0.1.0"):
        assert words in seen, words


def test_a_picture_without_a_heart_has_a_page_too():
    seen = Outline(page(reading(frames=1, slices=1, heart=False, size=32))).seen
    assert "Nothing was measured" in seen and "No contours" in seen


def test_a_case_without_images_has_a_page_too():
    one = reading(heart=False, frames=1, slices=1, size=16)
    case = replace(one.case, records={"phenotypes": phenotypes()})
    assert "The reading has no images" in page(replace(one, case=case))


def test_colour_and_complex_images_are_shown():
    one = reading(heart=False, frames=1, slices=1, size=16)
    image = one.case["image"]
    for data in (torch.rand(1, 1, 3, 1, 16, 16), torch.randn(1, 1, 4, 1, 16, 16, dtype=torch.complex64)):
        shown = Image(Rows.subjects(1), data, image.grid)
        page(replace(one, case=replace(one.case, records={"image": shown})))


@pytest.mark.slow
def test_a_large_noisy_cine_fits():
    """30 frames x 12 slices x 256², with noise that hardly compresses."""
    one = reading(frames=30, slices=12, size=256)
    noisy = replace(one.case["image"], data=one.case["image"].data + 0.5 * torch.rand(1, 30, 1, 12, 256, 256))
    text = page(replace(one, case=replace(one.case, records={**one.case.records, "image": noisy})))
    assert len(text.encode()) <= PAGE_BYTES
    island = json.loads(Outline(text).scripts[0])
    assert island["cine"]["frames"] == 30 and len(island["cine"]["sprites"]) == 12
    assert all(len(c["paths"]) == 30 and len(c["paths"][0]) == 12 for c in island["cine"]["contours"])


def test_write_without_labels(tmp_path):
    write(reading(heart=False, frames=1, slices=1, size=32), tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["reading.html", "reading.json"]


def test_labels_of_dicom_images_become_dicom_segmentations(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr("firstread.io.dicom.seg.write_seg", lambda labels, *where: asked.append(where))
    one = reading(frames=2, slices=2, size=32)
    source = DicomSource((), "1.2", ("1.2.3",), identify=False)
    labels = replace(one.case["labels"], source=source)
    write(replace(one, case=replace(one.case, records={**one.case.records, "labels": labels})), tmp_path)
    assert asked == [(source, tmp_path)]
    flat = replace(labels, grid=replace(labels.grid, frame="detector"))
    write(replace(one, case=replace(one.case, records={**one.case.records, "labels": flat})), tmp_path)
    assert len(asked) == 1
    codes = [w["code"] for w in json.loads((tmp_path / "reading.json").read_text())["warnings"]]
    assert "no_dicom_seg" in codes


def test_write_with_labels_read_back(tmp_path):
    import nibabel
    import numpy as np

    one = reading(frames=3, slices=4, size=32)
    write(one, tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["labels.nii.gz", "reading.html", "reading.json"]
    found = np.asarray(nibabel.load(tmp_path / "labels.nii.gz").dataobj)
    volume = one.case["labels"].data
    for value in (1, 2, 3):
        assert (found == value).sum() == (volume == value).sum()
