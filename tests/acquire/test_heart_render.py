"""Pictures and labels: k-space crop, majority of sub-voxels against brute force, offsets, place in the patient."""

import dataclasses

import pytest
import torch

from firstread.acquire.heart import heart_subject, scan_scene
from firstread.acquire.heart_motion import label_points
from firstread.acquire.heart_render import crop_matrix
from firstread.acquire.heart_window import majority


@pytest.mark.parametrize("size", [16, 15])
def test_crop_is_the_centred_fourier_crop(size):
    fine = torch.randn(3 * size, generator=torch.Generator().manual_seed(0), dtype=torch.complex64)
    k = torch.fft.fftshift(torch.fft.fft(torch.fft.ifftshift(fine)))
    start = (3 * size) // 2 - size // 2
    wanted = torch.fft.fftshift(torch.fft.ifft(torch.fft.ifftshift(k[start:start + size]))) / 3
    assert torch.allclose(crop_matrix(size) @ fine, wanted, atol=1e-5)


def test_majority_counts_subvoxels():
    packed = torch.zeros(6, 3)
    packed[:3] = 2.0 + 64
    packed[3:] = 2 * 4096.0
    assert majority(packed).squeeze(-1).tolist() == [1, 0]


def stack(**settings):
    kept = {"seed": 21, "family": "test", "pathology": "infarct", "matrix": (80, 80), "spacing_mm": 3.0, "frames": 1,
            "slices": 5, "slice_thickness_mm": 12.0, "gap_mm": 3.0, "misregistration_mm": 0.0}
    return heart_subject(**{**kept, **settings})


@pytest.fixture(scope="module")
def still():
    return stack()


def test_labels_are_the_majority_of_36_exact_points():
    subject = stack(frames=2, misregistration_mm=4.0, matrix=(80, 72))
    scan, heart = subject.scene.scan, subject.scene.heart
    for t, phase in enumerate((0.0, 0.5)):
        moment = heart.at(torch.tensor([phase], dtype=torch.float64))
        for k in (0, 2, 4):
            x, y = scan.points(k)
            votes = torch.zeros(4, *scan.matrix)
            for z in scan.subslices_mm(k):
                points = torch.stack((x, y, torch.full_like(x, z)), dim=-1).double()
                hot = torch.nn.functional.one_hot(label_points(heart, moment, points), 4).movedim(-1, 0)
                # Voxel j is the fine pixels 3 j - 1 to 3 j + 1 (even matrices), so roll before pooling.
                votes += torch.nn.functional.avg_pool2d(hot.roll((1, 1), (1, 2)).float(), 3)
            differing = (votes.argmax(0) != subject.labels.data[0, t, 0, k]).sum().item()
            assert differing <= 4, f"{differing} voxels of slice {k} differ"


def test_labels_of_a_usual_scan_come_near_the_analytic_volumes():
    subject = heart_subject(seed=4, pathology="normal", frames=1, matrix=(140, 140))
    count = torch.bincount(subject.labels.data.long().flatten(), minlength=4) * subject.labels.grid.voxel_ml.item()
    assert count[1].item() == pytest.approx(subject.truth["LVEDV"], rel=0.08)
    assert count[2].item() * 1.05 == pytest.approx(subject.truth["LVM"], rel=0.12)
    assert count[3].item() == pytest.approx(subject.truth["RVEDV"], rel=0.12)


def test_breath_hold_offsets_move_image_and_labels_together(still):
    moved = stack(misregistration_mm=6.0)

    def centres(subject):
        return torch.stack([(subject.labels.data[0, 0, 0, k] == 1).nonzero().float().mean(0) for k in range(1, 3)])

    wanted = torch.tensor(moved.scene.scan.shifts_mm)[1:3].flip(-1) / 3.0
    assert torch.allclose(centres(moved) - centres(still), wanted, atol=0.15)
    assert wanted.abs().max() > 1
    for k in range(1, 3):
        dark = [s.image.data[0, 0, 0, k].abs()[s.labels.data[0, 0, 0, k] == 2].mean() for s in (still, moved)]
        assert abs(dark[0] - dark[1]) < 0.15 * dark[0]


def test_the_heart_lies_on_its_axis_in_the_patient(still):
    labels, grid = still.labels.data[0, 0, 0], still.labels.grid
    centres = []
    for k in (1, 3):
        y, x = (labels[k] == 1).nonzero().double().mean(0)
        centres.append(grid.to_mm(torch.tensor([[x, y, k]], dtype=torch.float64))[0])
    along = (centres[1] - centres[0]) / (centres[1] - centres[0]).norm()
    normal = grid.affine[0, :3, 2] / grid.affine[0, :3, 2].norm()
    assert (along @ normal).item() > 0.99
    assert along[0] > 0.3 and along[2] < -0.3
    assert grid.spacing_mm[0].tolist() == pytest.approx([15.0, 3.0, 3.0]) and grid.thickness_mm.item() == 12


def test_fine_image_is_the_same_object_on_the_same_field_of_view(still):
    fine = stack(fine=True)
    assert fine.image.data.shape[-1] == 3 * still.image.data.shape[-1]
    down = crop_matrix(80, still.scene.scan.taper)
    assert torch.allclose(down @ fine.image.data[0, 0, 0] @ down.T, still.image.data[0, 0, 0], atol=2e-4)
    middle = torch.tensor([[40.0, 40.0, 1.0]], dtype=torch.float64)
    fine_middle = torch.tensor([[120.0, 120.0, 1.0]], dtype=torch.float64)
    assert torch.allclose(still.image.grid.to_mm(middle), fine.image.grid.to_mm(fine_middle))


def test_a_turned_stack_has_the_same_volumes(still):
    scan = dataclasses.replace(still.scene.scan, turn_rad=still.scene.scan.turn_rad + 0.8)
    scene = dataclasses.replace(still.scene, scan=scan)
    turned = scan_scene(scene, torch.zeros(1), torch.ones(5), torch.eye(4, dtype=torch.float64))[1]
    for label in (1, 2, 3):
        one, other = ((labels.data == label).sum().item() for labels in (still.labels, turned))
        assert other == pytest.approx(one, rel=0.025)


def test_the_heart_beats_and_the_torso_does_not():
    subject = stack(frames=3)
    moving = subject.image.data[0, :, 0].abs().std(0)
    assert (subject.labels.data[0, 0, 0] == 1).sum() > 1.1 * (subject.labels.data[0, 1, 0] == 1).sum()
    heart = (subject.labels.data[0, :, 0] > 0).any(0)
    far = torch.nn.functional.max_pool2d(heart.float(), 21, stride=1, padding=10) == 0
    assert moving[heart].mean() > 20 * moving[far].mean()
