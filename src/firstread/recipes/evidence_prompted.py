"""Promptable segmentation by simulated users: a box, one click, three clicks; the random walker and the network.

    python -m firstread.recipes.evidence_prompted FOLDER -o docs/evidence --work FOLDER

FOLDER holds ``acdc`` (short-axis scans, end-diastole), ``sunnybrook`` (single slices), ``ct_mr_lesion`` (two lesions)
and ``brain`` (a scan with FreeSurfer's labels). Simulated hearts come with the program. Each subject is kept in the
work folder: kill it, run it again, and it goes on. Writes ``prompted.md``.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool
from scipy import ndimage
from torch import Tensor

from firstread.acquire.heart import heart_subject
from firstread.analyze.prompted import SegmentPrompted
from firstread.analyze.prompting import Promptable, box_of, deepest
from firstread.chains.prompted import open_promptable
from firstread.core.errors import FirstreadError, InputError
from firstread.core.geometry import Grid
from firstread.core.prompts import Prompts
from firstread.core.records import Image, Rows
from firstread.io.nifti import read as read_nifti
from firstread.ops.regions import dice
from firstread.recipes.classical_lesions import read_lesion
from firstread.recipes.evaluate_acdc import OURS, SPACING_MM
from firstread.recipes.evaluate_sunnybrook import SPACING_MM as SUNNYBROOK_MM
from firstread.recipes.files import write_text
from firstread.recipes.sunnybrook import Slice, read_slices
from firstread.trust.bootstrap import paired_difference
from firstread.trust.segmentation import summarize

HEARTS, FIRST_SEED, CLICKS = 6, 100, 3
NAMES = {1: "LV cavity", 3: "RV cavity", 2: "LV myocardium"}
LESIONS = (("lung nodule, CT", "lung1_crop"), ("brain tumour, MR", "brain1"))
BRAIN = {4: "left lateral ventricle", 10: "left thalamus", 12: "left putamen", 16: "brain stem"}  # FreeSurfer's numbers
KINDS = ("box", "one point", "three points")
METHODS: dict[str, Callable[[], Promptable]] = {"random walker": partial(open_promptable, "walker"),
                                                "network": partial(open_promptable, "prompt")}
THIN = METHODS | {"network, carried on by the walker": partial(open_promptable, thin=True)}
Scores = dict[str, dict[str, list["Score"]]]
"""By object and method, of each subject."""
Read = Callable[[], tuple[Image, Tensor]]


@dataclass(frozen=True)
class Score:
    """Dice of one object of one subject: in the prompted slice, and of the whole volume, by kind of prompt.

    ellipse: of the ellipse in the box, in its slice: what the box alone is worth.
    """

    subject: str
    ellipse: float
    slice: Mapping[str, float]
    volume: Mapping[str, float]


def error_click(found: Bool[Tensor, "z y x"], truth: Bool[Tensor, "z y x"], spacing_mm: tuple[float, float]
                ) -> tuple[tuple[float, float, float], bool] | None:
    """Where a user would click next: the middle of the largest piece, within a slice, that is missed or too much.

    (x, y, z) and whether it lies on the object; None where nothing is wrong.
    """
    largest, where = 0, None
    for sign, wrong in ((True, truth & ~found), (False, found & ~truth)):
        for z in wrong.flatten(1).any(1).nonzero().flatten().tolist():
            parts, count = ndimage.label(wrong[z].numpy())
            sizes = np.bincount(parts.ravel(), minlength=count + 1)[1:]
            if count and sizes.max() > largest:
                largest, where = int(sizes.max()), (z, torch.from_numpy(parts == sizes.argmax() + 1), sign)
    if where is None:
        return None
    z, piece, sign = where
    y, x = deepest(piece, spacing_mm).tolist()
    return (x, y, float(z)), sign


def score(subject: str, image: Image, truth: Bool[Tensor, "z y x"], method: Promptable) -> Score:
    """A box, one click and three clicks on the slice where the object is largest, and in three wherever it is worst."""
    stage = SegmentPrompted(method=method, propagate="space")
    spacing = (float(image.grid.spacing_mm[0, 1]), float(image.grid.spacing_mm[0, 2]))
    z = int(truth.sum(dim=(1, 2)).argmax())
    y0, x0, y1, x1 = box_of(truth[z]).tolist()

    def run(**said) -> Bool[Tensor, "z y x"]:
        with torch.no_grad():
            return stage(image, Prompts.on_grid(image.grid, **said)).data[0, 0, 1] > 0.5

    y, x = deepest(truth[z], spacing).tolist()
    points, signs = [(x, y, float(z))], [True]
    found = {"box": run(boxes=[(x0, y0, z, x1, y1, z)]), "one point": run(points=points)}
    last = found["one point"]
    while len(points) < CLICKS and (click := error_click(last, truth, spacing)) is not None:
        points.append(click[0])
        signs.append(click[1])
        last = run(points=points, positive=signs)
    found["three points"] = last
    rows, columns = torch.meshgrid(torch.arange(truth.shape[1]), torch.arange(truth.shape[2]), indexing="ij")
    ellipse = (((rows - (y0 + y1) / 2) / (y1 - y0 + 1))**2 + ((columns - (x0 + x1) / 2) / (x1 - x0 + 1))**2) <= 0.25
    return Score(subject, float(dice(ellipse[None], truth[z][None])),
                 {kind: float(dice(mask[z][None], truth[z][None])) for kind, mask in found.items()},
                 {kind: float(dice(mask, truth)) for kind, mask in found.items()})


def read_scan(file: Path) -> tuple[Image, Tensor]:
    """Image and labels [z, y, x] of a patient of ACDC at end-diastole, on an assumed spacing."""
    with np.load(file) as stored:
        data = torch.from_numpy(stored["ed_image"].astype(np.float32))
        labels = torch.from_numpy(np.array(OURS, dtype=np.uint8)[stored["ed_label"]])
    grid = Grid.from_spacing((data.shape[0], data.shape[1], data.shape[2]), SPACING_MM, frame="detector")
    return Image(Rows.subjects(1), data[None, None, None], grid), labels


def make_heart(seed: int) -> tuple[Image, Tensor]:
    """The same of a simulated heart of the family that nothing was tried on, with noise."""
    subject = heart_subject(seed=seed, family="test", matrix=(128, 128), spacing_mm=2.0, frames=1)
    data = subject.image.data.abs().float()
    noise = torch.randn(data.shape, generator=torch.Generator().manual_seed(seed))
    image = Image(Rows.subjects(1), data + 0.03 * float(data.max()) * noise, subject.image.grid)
    return image, subject.labels.data[0, 0, 0]


def read_largest(files: Sequence[Slice]) -> tuple[Image, Tensor]:
    """Image and labels [1, y, x] of the slice of a patient of Sunnybrook with the largest contour."""
    chosen = max(files, key=lambda one: int(one.cavity.sum()))
    grid = Grid.from_spacing((1, *chosen.image.shape), SUNNYBROOK_MM, frame="detector")
    return Image(Rows.subjects(1), chosen.image[None, None, None, None], grid), chosen.cavity[None].to(torch.uint8)


def read_brain(file: Path) -> tuple[Image, Tensor]:
    """Image and labels of the scan, at 1 mm, in transverse slices."""
    with np.load(file) as stored:
        data, labels = (torch.from_numpy(stored[name].astype(kind)).transpose(0, 1).contiguous()
                        for name, kind in (("vol", np.float32), ("seg", np.int32)))
    grid = Grid.from_spacing((data.shape[0], data.shape[1], data.shape[2]), (1.0, 1.0, 1.0), frame="detector")
    return Image(Rows.subjects(1), data[None, None, None], grid), labels


def read_fetus(folder: Path) -> tuple[Image, Tensor]:
    """A stack of a fetal brain and its mask."""
    image, mask = (read_nifti(folder / name) for name in ("simulated_stack_d2.nii.gz", "mask_for_stack_d2.nii.gz"))
    return image, (mask.data[0, 0, 0] > 0).to(torch.uint8)


def all_scores(subjects: Iterable[tuple[str, Read]], methods: Mapping[str, Callable[[], Promptable]],
               work: Path | None, say: Callable[[str], None], *, names: Mapping[int, str] = NAMES) -> Scores:
    """Of every method. subjects: name, and what reads image and labels [z, y, x]; names: of label values; work: where
    scores are kept.
    """
    made: Scores = {name: {method: [] for method in methods} for name in names.values()}
    opened = {method: make() for method, make in methods.items()}
    for subject, read in subjects:
        image = labels = None
        for method, promptable in opened.items():
            stored = None if work is None else work / f"{subject} {method}.json"
            if stored is not None and stored.is_file():
                rows = {name: Score(**row) for name, row in json.loads(stored.read_text(encoding="utf-8")).items()}
            else:
                if image is None or labels is None:
                    image, labels = read()
                rows = {name: score(subject, image, labels == value, promptable) for value, name in names.items()
                        if bool((labels == value).any())}
                if stored is not None:
                    write_text(stored, json.dumps({name: asdict(row) for name, row in rows.items()}))
            for name, row in rows.items():
                made[name][method].append(row)
        say(subject)
    return made


def bounded(image: Image, truth: Bool[Tensor, "z y x"], method: Promptable) -> float:
    """Dice over the volume from one tight box over all slices of the object, which bounds it."""
    (z0, y0, x0), (z1, y1, x1) = (side.tolist() for side in (truth.nonzero().amin(0), truth.nonzero().amax(0)))
    with torch.no_grad():
        made = SegmentPrompted(method=method, propagate="space")(
            image, Prompts.on_grid(image.grid, boxes=[(x0, y0, z0, x1, y1, z1)]))
    return float(dice(made.data[0, 0, 1] > 0.5, truth))


def brain_bounded(read: Read, work: Path | None) -> dict[str, dict[str, float]]:
    """:func:`bounded` by method and structure, kept as the others are."""
    stored = None if work is None else work / "brain bounded.json"
    if stored is not None and stored.is_file():
        return json.loads(stored.read_text(encoding="utf-8"))
    image, labels = read()
    made = {method: {name: bounded(image, labels == value, make()) for value, name in BRAIN.items()}
            for method, make in THIN.items()}
    if stored is not None:
        write_text(stored, json.dumps(made))
    return made


def cell(values: Sequence[float], subjects: Sequence[str]) -> str:
    """``.850 [.830, .870]`` over subjects; without an interval where there are fewer than three."""
    found = summarize(values, subjects)
    return f"{found.mean:.3f}" + (f" [{found.lower:.3f}, {found.upper:.3f}]" if found.subjects >= 3 else "")


def columns(volume: bool) -> list[tuple[str, Callable[[Score], float]]]:
    """Titles, and what stands below them."""
    made: list[tuple[str, Callable[[Score], float]]] = [(f"{kind}, slice", partial(_of_slice, kind)) for kind in KINDS]
    return made + ([(f"{kind}, volume", partial(_of_volume, kind)) for kind in KINDS] if volume else [])


def _of_slice(kind: str, row: Score) -> float:
    return row.slice[kind]


def _of_volume(kind: str, row: Score) -> float:
    return row.volume[kind]


def table(scores: Scores, *, volume: bool = True) -> list[str]:
    """A row for each object and method: the prompted slice, then the volume."""
    shown = columns(volume)
    lines = [f"| object | n | method | {' | '.join(title for title, _ in shown)} |",
             f"|---|---|---|{'---|' * len(shown)}"]
    for name, methods in scores.items():
        for method, rows in methods.items():
            subjects = [row.subject for row in rows]
            cells = [cell([get(row) for row in rows], subjects) for _, get in shown]
            lines.append(f"| {name} | {len(rows)} | {method} | {' | '.join(cells)} |")
        rows = next(iter(methods.values()))
        ellipse = cell([row.ellipse for row in rows], [row.subject for row in rows])
        lines.append(f"| {name} | {len(rows)} | the ellipse in the box | {ellipse} |{' |' * (len(shown) - 1)}")
    return lines


def differences(scores: Scores, *, volume: bool = True) -> list[str]:
    """The last method minus the first, paired by subject."""
    shown = columns(volume)
    first, *_, last = METHODS
    lines = [f"{last.capitalize()} minus {first}, paired by subject:", "",
             f"| object | {' | '.join(title for title, _ in shown)} |", f"|---|{'---|' * len(shown)}"]
    for name, methods in scores.items():
        cells = [paired_difference(*(torch.tensor([[get(row)] for row in methods[m]]) for m in (last, first))).text(3)
                 for _, get in shown]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def page(real: Scores, slices: Scores, simulated: Scores, lesions: Scores, brain: Scores,
         held: Mapping[str, Mapping[str, float]]) -> str:
    """prompted.md."""
    return "\n".join([
        "# Promptable segmentation", "",
        "Made by `python -m firstread.recipes.evidence_prompted FOLDER -o docs/evidence --work FOLDER`. The random "
        "walker with its default settings, nothing learned and nothing chosen on these data (its settings were looked "
        "at on four simulated hearts of another family; one mistake in the program, about the order of clicks, was "
        "mended after a first run on these scans). The network (`prompt`) was trained on simulated scenes and "
        "simulated hearts alone; how it is used was decided on other simulated scenes, and it was run here once; "
        "that it is the default of `segment prompt` was decided on these rows. No published SAM or MedSAM weights were "
        "at hand: of them only the equality of numbers with the original program is tested.", "",
        "The user is simulated from the truth. Box: tight, on the slice where the object is largest. One point: that "
        "slice's pixel farthest from the border. Three points: two more, each in the middle of the largest piece "
        "(within a slice, of any slice) that this method misses or has too much. From the prompted slice the mask is "
        "carried on through the volume. Dice; mean over subjects, 95 % bootstrap interval over subjects. A tight box "
        "and a central click are the best that a user can do; what a tight box is worth by itself is the ellipse in "
        "it.", "",
        "## Real short-axis scans (ACDC)", "",
        "End-diastole. Spacing is not in the source: 1.5 x 1.5 x 9 mm is assumed for all.", "", *table(real), "",
        *differences(real), "",
        "## Real short-axis slices (Sunnybrook)", "",
        f"Of each patient the slice with the largest contour of the left cavity; {SUNNYBROOK_MM[1]:g} mm pixels are "
        "assumed.", "", *table(slices, volume=False), "", *differences(slices, volume=False), "",
        "## Simulated hearts", "",
        f"{HEARTS} subjects of the phantom's test family, 2 mm pixels, noise of 3 % of the maximum added to "
        "magnitudes. The network was trained on hearts of another generator.", "", *table(simulated), "",
        *differences(simulated), "",
        "## Lesions", "", "One case each, the largest piece of its mask: no interval.", "", *table(lesions), "",
        "## Thin slices: structures of a brain, a fetal brain", "", "One T1 scan, brain cut out, 1 mm, FreeSurfer's "
        "labels, transverse slices; one stack of a fetal brain, 1.25 mm, with its mask: no interval.", "",
        *table(brain), "",
        "Through many thin slices the network's mask may drift, and not end where the object does. So in slices nearer "
        "to each other than two and a half pixels the network's mask is carried on by the walker, unless a method is "
        "named. This was added after the rows of both on the brain had been seen; the fetal brain was measured after "
        "that. "
        "From one box over all slices of the structure, which bounds it (measured after the rows of walker and network "
        "had been seen), Dice of the volume:",
        "", f"| method | {' | '.join(BRAIN.values())} |", f"|---|{'---|' * len(BRAIN)}",
        *(f"| {method} | {' | '.join(f'{row[name]:.3f}' for name in BRAIN.values())} |"
          for method, row in held.items()), ""])


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m firstread.recipes.evidence_prompted", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="with acdc, sunnybrook, ct_mr_lesion, brain and fetal_mr")
    parser.add_argument("-o", "--output", type=Path, default=Path("docs/evidence"))
    parser.add_argument("--work", type=Path, help="where each subject's scores are kept")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    say: Callable[[str], None] = lambda text: print(text, file=sys.stderr, flush=True)  # noqa: E731
    try:
        if not given.output.is_dir() or not any((given.folder / "acdc").glob("patient*.npz")):
            raise InputError(f"folder {given.folder.name}, output {given.output}", expected="scans in acdc/, and an "
                             "output folder that is there", remedy="check both")
        files = sorted((given.folder / "acdc").glob("patient*.npz"))
        patients = [(file.stem, partial(read_scan, file)) for file in files]
        hearts = [(f"heart {seed}", partial(make_heart, seed)) for seed in range(FIRST_SEED, FIRST_SEED + HEARTS)]
        by_patient: dict[str, list[Slice]] = {}
        for held_out in (False, True):
            for one in read_slices(given.folder / "sunnybrook", held_out=held_out):
                by_patient.setdefault(one.patient, []).append(one)
        contours = [(name, partial(read_largest, some)) for name, some in sorted(by_patient.items())]
        lesions: Scores = {}
        for title, stem in LESIONS:
            read = partial(read_lesion, given.folder / "ct_mr_lesion", stem)
            lesions |= all_scores([(title, read)], METHODS, given.work, say, names={1: title})
        simulated, real = (all_scores(subjects, METHODS, given.work, say) for subjects in (hearts, patients))
        slices = all_scores(contours, METHODS, given.work, say, names={1: NAMES[1]})
        scan = partial(read_brain, given.folder / "brain" / "t1_scan_with_labels.npz")
        brain = all_scores([("brain", scan)], THIN, given.work, say, names=BRAIN)
        brain |= all_scores([("fetus", partial(read_fetus, given.folder / "fetal_mr"))], THIN, given.work, say,
                            names={1: "fetal brain"})
        write_text(given.output / "prompted.md", page(real, slices, simulated, lesions, brain,
                                                       brain_bounded(scan, given.work)))
    except (FirstreadError, FileNotFoundError) as error:
        print(f"evidence_prompted: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
