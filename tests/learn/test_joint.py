"""Joint training: the same gradient by every way that there is, and clear words where there is none."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from samples import blob
from torch import nn

from firstread.acquire.coils import GaussianCoils
from firstread.acquire.mri import Encode
from firstread.acquire.sampling import LearnedMask
from firstread.analyze.consensus import Consensus
from firstread.analyze.segment import Segment
from firstread.core.case import Case
from firstread.core.errors import GradientError, MissingRecordError, SettingError
from firstread.core.records import HardLabels, Image, KSpace, Phenotype, Phenotypes, Rows, SoftLabels
from firstread.core.stage import Chain, Stage
from firstread.core.wrap import wrap
from firstread.learn.fit import fit
from firstread.learn.joint import accumulate, check_gradients, freeze, joint_loss, load_fitting, rates_of
from firstread.learn.objectives import CohortTerm, Objective, Term, correlation, cox
from firstread.learn.row_losses import contour_error, image_error, phenotype_error, value_of
from firstread.measure.cardiac import CardiacFunction
from firstread.nets.cascade import DeepCascade
from firstread.reconstruct.cascade import Cascade

NAMES = ("background", "LV cavity", "LV myocardium", "RV cavity")


def heart_chain(seed: int = 0) -> Chain:
    """Mask, cascade, segmentation and ejection fraction in double precision, without kinks in the network."""
    torch.manual_seed(seed)
    mask = LearnedMask(lines=24, count=12, centre_lines=6).double()
    cascade = DeepCascade(cascades=2, depth=2, width=4, consistency=0.1, steps=3).double()
    for block in cascade.blocks:  # they begin as the identity, where the gradient of the first layers is zero
        nn.init.normal_(block.layers[-1].weight, std=0.1)
    net = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.Tanh(), nn.Dropout(0.2), nn.Conv2d(6, 4, 3, padding=1))
    return Chain(Encode(sampling=mask, coils=GaussianCoils(count=3), snr=40.0), Cascade(network=cascade),
                 Segment(networks=[net.double()], patch=32, search=32), CardiacFunction(softness=0.2, warn=False))


def heart_case(number: int) -> Case:
    image = blob(frames=3)
    data = (image.data * (1 + 0.3j * number) + 0.05 * number * image.data.roll(3, dims=-1)).to(torch.complex128)
    image = replace(image, data=data)
    bright = (data.abs() > 0.5 + 0.05 * number).to(torch.uint8)
    labels = HardLabels(Rows.subjects(1), bright[:, :, :1], image.grid, NAMES, image.times_s)
    truth = {"LVEF": 40.0 + 9 * number, "time": 5.0 - number % 2, "event": float(number != 1)}
    values = {name: Phenotype(torch.tensor([v], dtype=torch.float64), "1") for name, v in truth.items()}
    return Case({"image": image, "truth.labels": labels, "truth.phenotypes": Phenotypes(Rows.subjects(1), values)},
                seed=number)


ALL = Objective((
    Term(result="reconstruction", truth="image", loss=image_error(), weight=2.0),
    Term(result="labels.members", truth="truth.labels", loss=contour_error()),
    Term(result="phenotypes", truth="truth.phenotypes", loss=phenotype_error("LVEF", scale=10), weight=0.5),
    CohortTerm(result="phenotypes", truth="truth.phenotypes", value=value_of("LVEF"), loss=cox(), weight=0.3),
    CohortTerm(result="phenotypes", truth="truth.phenotypes", value=value_of("LVEF"), loss=correlation("LVEF")),
))
RECOMPUTED = ("kspace", "reconstruction", "labels.members", "phenotypes")


def gradients(way, *, cases: int = 3, seed: int = 7) -> tuple[float, dict[str, torch.Tensor]]:
    chain = heart_chain()
    torch.manual_seed(seed)
    value = way(chain, [heart_case(n) for n in range(cases)])
    if value.requires_grad:
        value.backward()
    return value.item(), {name: p.grad for name, p in chain.named_parameters()}


def assert_same(one, other) -> None:
    assert one[0] == pytest.approx(other[0], rel=1e-12)
    assert set(one[1]) == set(other[1])
    for name, gradient in one[1].items():
        assert gradient is not None and gradient.abs().sum() > 0, name
        torch.testing.assert_close(other[1][name], gradient, rtol=1e-9, atol=1e-14, msg=name)


def one_pass(chain, cases):
    return joint_loss(chain, cases, ALL)


def test_two_passes_give_the_gradient_of_one():
    assert_same(gradients(one_pass), gradients(lambda chain, cases: accumulate(chain, cases, ALL)))


@pytest.mark.parametrize("recompute", [("reconstruction",), RECOMPUTED])
def test_checkpointing_changes_no_gradient(recompute):
    assert_same(gradients(one_pass), gradients(lambda chain, cases: joint_loss(chain, cases, ALL, recompute=recompute)))
    assert_same(gradients(one_pass), gradients(lambda chain, cases: accumulate(chain, cases, ALL, recompute=recompute)))


def test_a_recomputed_stage_keeps_nothing_between():
    class Square(nn.Module):
        def forward(self, x):
            return (x * x).cos() * x

    image = replace(blob(), data=blob().data.abs()[..., :8])
    image = replace(image, data=image.data.requires_grad_(), grid=image.grid.crop((0, 0, 0), (1, 24, 8)))
    chain = Chain(wrap(Square(), reads=Image, writes=Image, axes="yx", name="square"))
    kept: list[int] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        chain(image)
        plain, kept = sum(kept), []
        chain(image, recompute=("square",))
    assert plain >= 3 * image.data.numel() and sum(kept) == 0


def test_copies_of_one_draw_give_its_gradient():
    """Without randomness the draws are copies: k of them are one subject, not k."""
    objective = Objective(ALL.terms[:3])

    def quiet() -> Chain:
        chain = heart_chain().eval()
        return chain.replacing("kspace", Encode(sampling=chain.stage("kspace").trained, snr=None,
                                                coils=GaussianCoils(count=3)))

    found = []
    for copies in (1, 3):
        chain = quiet()
        cases = [heart_case(n) for n in range(2)]
        cases = cases if copies == 1 else [case.draws(copies) for case in cases]
        value = accumulate(chain, cases, objective)
        found.append((value.item(), {name: p.grad for name, p in chain.named_parameters()}))
        assert len(chain(cases[0])["phenotypes"]["LVEF"].value) == copies
    # the coils of a subject are drawn per subject, the noise is off, so nothing differs between draws
    assert_same(found[0], found[1])


def test_draws_of_the_noise_are_one_subject_each():
    value, gradient = gradients(lambda chain, cases: accumulate(chain, cases, ALL, samples=2))
    again = gradients(lambda chain, cases: joint_loss(chain, cases, ALL, samples=2))
    assert_same((value, gradient), again)
    assert value != gradients(one_pass)[0]


def test_subjects_in_one_case_are_subjects_in_many():
    class Scale(Stage):
        result = "scaled"

        def __init__(self):
            super().__init__()
            self.factor = nn.Parameter(torch.tensor(0.5, dtype=torch.float64))

        def forward(self, numbers: Phenotypes) -> Phenotypes:
            value = self.factor * numbers["x"].value
            return Phenotypes(numbers.rows, {"LVEF": Phenotype(value.sin(), "1")})

    def numbers(*values: float) -> Phenotypes:
        values = torch.tensor(values, dtype=torch.float64)
        found = {"x": values, "LVEF": values.cos(), "time": values + 3, "event": torch.ones_like(values)}
        return Phenotypes(Rows.subjects(len(values)), {n: Phenotype(v, "1") for n, v in found.items()})

    terms = [replace(t, result="scaled", truth="numbers") for t in ALL.terms[2:]]
    found = []
    for parts in (((1.0, 2.0, 3.5),), ((1.0,), (2.0,), (3.5,))):
        cases = [Case({"numbers": numbers(*values)}) for values in parts]
        chain = Chain(Scale())
        found.append((accumulate(chain, cases, Objective(terms)).item(), {"f": chain.stage("scaled").factor.grad}))
    assert_same(*found)


def test_frozen_stages_stay_as_they_are_and_rates_are_their_own(tmp_path):
    chain = freeze(heart_chain(), "labels.members")
    before = {name: value.clone() for name, value in chain.state_dict().items()}
    objective = Objective(ALL.terms[:3])
    seen = []

    def loss(chain: Chain, cases: list[Case]) -> torch.Tensor:
        seen.append((chain.stage("labels.members").training, chain.stage("reconstruction").training))
        return accumulate(chain, cases, objective)

    fit(chain, lambda step: [heart_case(step)], loss, steps=1, warmup=1, averaging=0, accumulates=True,
        rates=rates_of(chain, {"kspace": 10.0}), learning_rate=1e-3, weight_decay=0.0, checkpoint=tmp_path / "a.pt")
    assert seen == [(False, True)]
    moved = {name: (value - before[name]).abs().max().item() for name, value in chain.state_dict().items()}
    assert all(moved[n] == 0 for n in moved if n.startswith("stages.2."))
    mask = moved["stages.0.trained.logits"]
    rest = max(v for n, v in moved.items() if n.startswith("stages.1."))
    assert mask == pytest.approx(0.01, rel=1e-3) and rest == pytest.approx(0.001, rel=1e-3)  # Adam's first step


def test_a_stage_that_blocks_is_named_before_the_first_step():
    hard = Chain(*heart_chain().steps[:3], Consensus(), CardiacFunction(warn=False))
    with pytest.raises(GradientError, match=r"'phenotypes' whose gradient stops at stage 'consensus'.*differentiable"):
        check_gradients(hard, Objective(ALL.terms[2:3]), heart_case(0))
    calls = []
    outside = wrap(lambda kspace: calls.append(1), reads=KSpace, writes=Image, name="bart")
    chain = heart_chain().replacing("reconstruction", outside)
    with pytest.raises(GradientError, match="'encode', which is trained but reached by no loss, stage 'bart' is in"):
        accumulate(chain, [heart_case(0)], Objective(ALL.terms[1:3]))
    assert not calls, "nothing ran"
    check_gradients(freeze(chain, "kspace"), Objective(ALL.terms[1:3]), heart_case(0))


class Rounds(nn.Module):
    """Layers that look trained, and a step that no gradient passes."""

    def __init__(self, way):
        super().__init__()
        self.scale, self.way = nn.Parameter(torch.ones((), dtype=torch.float64)), way

    def forward(self, x):
        return self.way(self.scale * x)


@pytest.mark.parametrize("way", [torch.detach, lambda x: torch.view_as_complex(torch.from_numpy(
    torch.view_as_real(x).detach().numpy())), lambda x: (x.real > 0).to(x)])
def test_a_module_that_blocks_inside_is_named_when_its_gradient_is_asked(way):
    stage = wrap(Rounds(way), reads=Image, writes=Image, axes="yx", name="rounded", result="reconstruction")
    steps = heart_chain().steps
    chain = Chain(steps[0], steps[1].using(writes="image.first"), stage.using(reads={"image": "image.first"}),
                  *steps[2:])
    for terms in (ALL.terms[2:3], ALL.terms[1:3]):
        with pytest.raises(GradientError, match="'rounded'"):
            accumulate(chain, [heart_case(0)], Objective(terms))
    meant = wrap(torch.detach, reads=Image, writes=Image, axes="yx", name="stopped", result="reconstruction",
                 stops_gradient=True)
    stopped = Chain(*chain.steps[:2], meant.using(reads={"image": "image.first"}), *steps[2:])
    accumulate(stopped, [heart_case(0)], Objective(ALL.terms[1:2]))
    assert all(p.grad is None for p in stopped.stage("image.first").parameters())


def test_a_trained_stage_that_no_loss_reaches_is_named():
    with pytest.raises(GradientError, match=r"'segment', which is trained but reached by no loss;.*freeze"):
        check_gradients(heart_chain(), Objective(ALL.terms[:1]), heart_case(0))
    frozen = freeze(heart_chain(), "kspace", "reconstruction", "labels.members")
    with pytest.raises(GradientError, match="without a trained parameter"):
        check_gradients(frozen, ALL, heart_case(0))
    with pytest.raises(GradientError, match="meets no trained stage"):
        check_gradients(freeze(heart_chain(), "kspace", "reconstruction"), ALL, heart_case(0))


def test_bad_names_and_weights_are_refused():
    with pytest.raises(MissingRecordError, match="no stage that writes 'masks'"):
        freeze(heart_chain(), "masks")
    with pytest.raises(MissingRecordError, match="soft"):
        heart_chain()(heart_case(0), recompute=("labels.soft",))
    with pytest.raises(SettingError, match=r"against 'truth\.nope', which the case does not hold"):
        check_gradients(heart_chain(), Objective([replace(ALL.terms[0], truth="truth.nope")]), heart_case(0))
    with pytest.raises(SettingError, match="weights"):
        Objective(())
    with pytest.raises(SettingError, match="above zero"):
        Objective((replace(ALL.terms[0], weight=0.0),))
    with pytest.raises(SettingError, match="finite weights"):
        Objective((replace(ALL.terms[0], weight=float("inf")),))
    with pytest.raises(SettingError, match="a batch without cases"):
        accumulate(heart_chain(), [], ALL)
    with pytest.raises(SettingError, match="correlation of 1 subjects"):
        accumulate(heart_chain(), [heart_case(0)], Objective(ALL.terms[4:]))
    with pytest.raises(SettingError, match=r"learning rates for \['stages.7.'\]"):
        fit(heart_chain(), lambda step: step, lambda *_: None, steps=1, rates={"stages.7.": 1.0},
            checkpoint=Path("nowhere.pt"))


def test_warm_start_takes_what_fits():
    small, large = nn.Linear(3, 4), nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    assert load_fitting(large[0], small.state_dict()) == []
    assert torch.equal(large[0].weight, small.weight)
    assert load_fitting(nn.Linear(5, 4), small.state_dict()) == ["weight"]
    with pytest.raises(SettingError, match="none fits"):
        load_fitting(nn.Conv2d(1, 1, 3), {"elsewhere": torch.zeros(1)})


def test_a_swapped_stage_keeps_its_place_and_shares_the_rest():
    chain = heart_chain()
    net = nn.Sequential(nn.Conv2d(1, 4, 1), nn.Softmax(1)).double()
    class OfMagnitude(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net

        def forward(self, x):
            return self.net(x.abs())

    mine = wrap(OfMagnitude(), reads=Image, writes=SoftLabels, axes="yx", names=NAMES, name="mine")
    swapped = chain.replacing("labels.members", mine.using(reads={"image": "reconstruction"}))
    assert [s.writes for s in swapped.steps] == [s.writes for s in chain.steps]
    accumulate(swapped, [heart_case(0), heart_case(2)], ALL)
    assert net[0].weight.grad.abs().sum() > 0
    assert chain.stage("kspace").trained.logits.grad.abs().sum() > 0, "shared"
