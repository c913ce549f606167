import pytest
import torch
from torch import nn

from firstread.core.case import Case
from firstread.core.errors import AmbiguousRecordError, ChainError, GradientError, MissingRecordError
from firstread.core.geometry import Grid
from firstread.core.keys import Key
from firstread.core.records import Image, KSpace, Phenotype, Phenotypes, Risk, Rows, SoftLabels
from firstread.core.stage import Chain, Stage
from firstread.core.wrap import wrap

GRID = Grid.from_spacing((2, 4, 6), (1.0, 1.0, 1.0))


def picture(value=None) -> Image:
    data = torch.rand(1, 3, 1, 2, 4, 6) if value is None else torch.full((1, 3, 1, 2, 4, 6), float(value))
    return Image(Rows.subjects(1), data, GRID)


class Blur(Stage):
    result = "blurred"

    def __init__(self, *, strength: float = 0.5) -> None:
        super().__init__()
        self.strength = nn.Parameter(torch.tensor(strength))

    def forward(self, image: Image) -> Image:
        return Image(image.rows, image.data * self.strength, image.grid)


class Noise(Stage):
    result = "noisy"

    def forward(self, image: Image, key: Key) -> Image:
        return Image(image.rows, image.data + key.normal(image.rows, tuple(image.data.shape[1:])), image.grid)


class Fuse(Stage):
    result = "fused"

    def forward(self, pet: Image, ct: Image) -> Image:
        return Image(pet.rows, pet.data - ct.data, pet.grid)


class Mean(Stage):
    result = "mean"

    def forward(self, image: Image) -> Phenotypes:
        return Phenotypes(image.rows, {"mean": Phenotype(image.data.mean(dim=(1, 2, 3, 4, 5)), "1")})


class Needs(Stage):
    def forward(self, kspace: KSpace) -> Image:
        return Image(kspace.rows, kspace.data.abs(), kspace.grid)


def test_results_are_added_and_inputs_kept():
    out = Chain(Blur(), Mean())(Case({"image": picture(2)}))
    assert list(out) == ["image", "blurred", "mean"]
    assert out["mean"]["mean"].value.item() == pytest.approx(1.0)
    assert [step.stage for step in out.trail] == ["blur", "mean"]


def test_argument_names_tell_two_records_of_one_kind_apart():
    out = Chain(Fuse())(Case({"ct": picture(1), "pet": picture(5)}))
    assert out["fused"].data.mean().item() == 4


def test_ambiguity_is_refused_and_named():
    with pytest.raises(AmbiguousRecordError, match=r"prior.*current"):
        Chain(Blur())(Case({"prior": picture(), "current": picture()}))
    out = Chain(Blur().using(reads={"image": "prior"}))(Case({"prior": picture(2), "current": picture(4)}))
    assert out["blurred"].data.mean().item() == 1


def test_ambiguity_and_misfit_are_refused_at_construction():
    with pytest.raises(AmbiguousRecordError):
        Chain(Blur(), inputs={"prior": Image, "current": Image})
    with pytest.raises(MissingRecordError, match="KSpace"):
        Chain(Needs(), inputs={"image": Image})
    with pytest.raises(ChainError, match="Phenotypes"):
        Chain(Mean(), Blur().using(reads={"image": "mean"}), inputs={"image": Image})
    with pytest.raises(AmbiguousRecordError, match="using"):
        Chain(Blur(), Blur())


def test_a_plain_module_is_refused_with_the_remedy():
    with pytest.raises(ChainError, match="wrap"):
        Chain(nn.Identity())


def test_missing_record_says_what_is_missing():
    with pytest.raises(MissingRecordError, match="KSpace"):
        Chain(Needs())(Case({"image": picture()}))


def test_gradients_reach_parameters_and_input_and_nothing_is_mutated():
    chain, image = Chain(Blur(), Mean()), picture()
    before = image.data.clone()
    leaf = image.map(lambda t: t.clone().requires_grad_() if t.dtype == torch.float32 else t)
    chain(leaf)["mean"]["mean"].value.sum().backward()
    assert leaf.data.grad.abs().sum() > 0 and chain.stages[0].strength.grad is not None
    torch.testing.assert_close(image.data, before)


def test_state_dict_round_trip():
    first, second = Chain(Blur(strength=0.3), Mean()), Chain(Blur(strength=0.9), Mean())
    second.load_state_dict(first.state_dict())
    image = picture()
    torch.testing.assert_close(first(image)["blurred"].data, second(image)["blurred"].data)


def test_samples_draw_from_the_first_random_stage_on():
    out = Chain(Blur(), Noise(), Mean())(Case({"image": picture(1)}, seed=4), samples=3)
    assert out["noisy"].rows.draw.tolist() == [0, 1, 2] and out["noisy"].rows.subject.tolist() == [0, 0, 0]
    again = Chain(Blur(), Noise(), Mean())(Case({"image": picture(1)}, seed=4), samples=3)
    torch.testing.assert_close(out["noisy"].data, again["noisy"].data)
    assert not torch.equal(out["noisy"].data[0], out["noisy"].data[1])
    single = Chain(Blur(), Noise(), Mean())(Case({"image": picture(1)}, seed=4))
    torch.testing.assert_close(single["noisy"].data[0], out["noisy"].data[0])


def test_over_runs_every_case():
    cases = [Case({"image": picture(v)}) for v in (2, 4)]
    assert [c["mean"]["mean"].value.item() for c in Chain(Blur(), Mean()).over(cases)] == [1, 2]


def test_wrapped_module_sees_plain_tensors_and_keeps_gradient():
    conv = nn.Conv2d(1, 2, 3, padding=1)
    net = nn.Sequential(conv, nn.Softmax(1))
    stage = wrap(net, reads=Image, writes=SoftLabels, axes="yx", names=("a", "b"), name="net")
    image = picture()
    out = Chain(stage)(image)["net"]
    assert out.data.shape == (1, 3, 2, 2, 4, 6)
    expected = torch.softmax(conv(image.data[0, 1, :, 1][None]), 1)[0]
    torch.testing.assert_close(out.data[0, 1, :, 1], expected)
    out.data.square().sum().backward()
    assert conv.weight.grad is not None


@pytest.mark.parametrize("axes", ["yx", "zyx", "tyx", "tzyx"])
def test_folding_is_undone(axes):
    seen = []
    stage = wrap(lambda d: seen.append(d.shape) or d.clone(), reads=Image, writes=Image, axes=axes, name="same")
    image = picture()
    torch.testing.assert_close(stage(image).data, image.data)
    assert seen[0][1] == 1 and len(seen[0]) == 2 + len(axes)


def test_a_gradient_through_a_plain_callable_names_the_stage():
    outside = wrap(lambda image: Image(image.rows, torch.from_numpy(image.data.numpy() * 2), image.grid),
                   reads=Image, writes=Image, name="bart")
    chain = Chain(Blur(), outside, Mean())
    result = chain(picture())["mean"]["mean"].value
    with pytest.raises(GradientError, match="bart"):
        result.sum().backward()


def test_wrapped_output_of_another_shape_is_refused():
    stage = wrap(lambda d: d[..., :-1], reads=Image, writes=Image, axes="yx", name="cut")
    with pytest.raises(ChainError, match="shape"):
        stage(picture())


def test_a_risk_can_be_written():
    stage = wrap(lambda p: Risk(p.rows, p["mean"].value), reads={"numbers": Phenotypes}, writes=Risk, name="risk")
    assert Chain(Mean(), stage)(picture(3))["risk"].value.item() == 3
