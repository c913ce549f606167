"""Dropout, evidential and Laplace draws: outside formulas, keyed draws, carried through to intervals."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import nn

from firstread.analyze.consensus import Harden
from firstread.core.batched import concatenate
from firstread.core.case import Case
from firstread.core.errors import SettingError, SignalError
from firstread.core.geometry import Grid
from firstread.core.keys import Key
from firstread.core.records import Features, Image, Phenotype, Phenotypes, Rows, SoftLabels
from firstread.core.stage import Chain
from firstread.core.wrap import wrap
from firstread.measure.cardiac import CardiacFunction
from firstread.trust.draws import DropoutDraws, MeanOverDraws
from firstread.trust.evidential import EvidentialHead, NormalInverseGamma, evidential_loss
from firstread.trust.intervals import Calibration, ConformalIntervals, Quantity
from firstread.trust.laplace import LaplaceHead, design, fit_posterior, linear_posterior

NAMES = ("background", "LV cavity", "LV myocardium", "RV cavity")


class Dropping(nn.Module):
    """Four classes out of one channel, with dropout between two convolutions; disc-shaped cavities inside muscle."""

    def __init__(self, p=0.3):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.drop, self.last = nn.Conv2d(1, 16, 1), nn.Dropout2d(p), nn.Conv2d(16, 1, 1)

    def forward(self, x):
        level = 3 * x + self.last(self.drop(self.first(x).relu()))
        return torch.cat([-8 * (level - c).abs() for c in (0.0, 3.0, 1.5, -3.0)], dim=1).softmax(dim=1)


def hearts(subjects=2, size=32):
    """A cavity of 1 inside muscle of 0.5."""
    y, x = torch.meshgrid(torch.arange(size) - 16.0, torch.arange(size) - 16.0, indexing="ij")
    r = (x**2 + y**2).sqrt()
    frames = torch.stack([(r < a).float() / 2 + (r < b).float() / 2 for a, b in ((12, 8), (12, 6))])
    data = frames[None, :, None, None].expand(subjects, -1, -1, 6, -1, -1).clone()
    grid = Grid.from_spacing((6, size, size), (8.0, 2.0, 2.0), batch=subjects)
    return Image(Rows.subjects(subjects), data, grid)


def stage(p=0.3):
    return wrap(Dropping(p), reads=Image, writes=SoftLabels, axes="yx", names=NAMES, name="segment").eval()


def test_dropout_is_on_for_the_draws_alone_and_keyed_by_subject_and_draw():
    made = DropoutDraws(stage=stage(), draws=3)
    key, image = Key(7, "segment"), hearts()
    first = made(key=key, image=image)
    assert first.rows.subject.tolist() == [0, 0, 0, 1, 1, 1] and first.rows.draw.tolist() == [0, 1, 2] * 2
    assert not torch.equal(first.data[0], first.data[1]) and not torch.equal(first.data[0], first.data[3])
    assert torch.equal(first.data, made(key=key, image=image).data)
    assert torch.equal(first.data[3:], made(key=key, image=image.select(torch.tensor([1]))).data)
    backwards = made(key=key, image=image.select(torch.tensor([1, 0])))
    assert torch.equal(backwards.data[:3], first.data[3:])
    assert not made.stage.module.drop.training
    state = torch.random.get_rng_state()
    made(key=key, image=image)
    assert torch.equal(state, torch.random.get_rng_state())


def test_dropout_draws_average_to_the_plain_output_of_a_linear_network():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 64, 1), nn.Dropout(0.2), nn.Conv2d(64, 1, 1)).eval()
    plain = wrap(network, reads=Image, writes=Image, axes="yx", name="linear")
    image = hearts(1)
    found = DropoutDraws(stage=plain, draws=60)(key=Key(0, "linear"), image=image)
    assert (found.data.mean(0) - plain(image).data[0]).abs().max() < 5 * found.data.std(0).max() / math.sqrt(60)


def test_draws_of_draws_are_numbered_apart():
    image = hearts(1).draws(2)
    found = DropoutDraws(stage=stage(), draws=3)(key=Key(0, "segment"), image=image)
    assert sorted(found.rows.draw.tolist()) == list(range(6)) and set(found.rows.subject.tolist()) == {0}


def test_a_stage_without_dropout_is_refused():
    with pytest.raises(SettingError, match="1 dropout layers"):
        DropoutDraws(stage=stage(0.0), draws=3)
    with pytest.raises(SettingError, match="1 draws"):
        DropoutDraws(stage=stage(), draws=1)


def test_draws_are_carried_through_to_intervals_of_every_phenotype():
    quantities = {n: Quantity(-2.0, 2.0, f, 99, u) for n, f, u in (("LVEDV", 3.0, "mL"), ("LVEF", 1.5, "%"))}
    chain = Chain(DropoutDraws(stage=stage(), draws=4), Harden(clean=False),
                  CardiacFunction(warn=False).using(writes="phenotypes.members"), MeanOverDraws(),
                  ConformalIntervals(calibration=Calibration(0.9, 4, "an example", quantities)).using(
                      reads={"point": "phenotypes.point", "members": "phenotypes.members"}))
    done = chain(Case({"image": hearts()}, seed=3))
    members, found = done["phenotypes.members"], done["phenotypes.intervals"]
    assert members.batch == 8 and found.batch == 2
    for name, quantity in quantities.items():
        table = members[name].value.unflatten(0, (2, 4))
        torch.testing.assert_close(found[name].value, table.mean(1))
        torch.testing.assert_close(found[name].upper - found[name].value, 2 * (table.std(1) + quantity.floor))
    assert done.trail[0].stage == "segment" and "dropout" in done.trail[0].settings


@settings(max_examples=60, deadline=None)
@given(st.floats(-3, 3), st.floats(-3, 3), st.floats(0.05, 20), st.floats(1.05, 20), st.floats(0.05, 20))
def test_the_evidential_likelihood_is_student_s_t(y, gamma, nu, alpha, beta):
    given_ = NormalInverseGamma(*(torch.tensor([v], dtype=torch.float64) for v in (gamma, nu, alpha, beta)))
    found = evidential_loss(given_, torch.tensor([y], dtype=torch.float64), evidence_weight=0.0).item()
    outside = -stats.t.logpdf(y, 2 * alpha, loc=gamma, scale=math.sqrt(beta * (1 + nu) / (nu * alpha)))
    assert found == pytest.approx(outside, rel=1e-9, abs=1e-9)
    full = evidential_loss(given_, torch.tensor([y], dtype=torch.float64), evidence_weight=0.5).item()
    assert full - found == pytest.approx(0.5 * abs(y - gamma) * (2 * nu + alpha), abs=1e-8)


def test_moments_of_the_normal_inverse_gamma_by_sampling():
    found = NormalInverseGamma(*(torch.tensor(v, dtype=torch.float64) for v in (2.0, 3.0, 5.0, 4.0)))
    variance = stats.invgamma(5.0, scale=4.0).rvs(400_000, random_state=1)
    mean = 2.0 + stats.norm.rvs(size=400_000, random_state=2) * (variance / 3.0)**0.5
    assert variance.mean() == pytest.approx(found.aleatoric.item(), rel=0.01)
    assert mean.var() == pytest.approx(found.epistemic.item(), rel=0.02)
    t = stats.t(2 * 5.0, scale=found.scale.item())
    assert t.var() == pytest.approx((found.aleatoric + found.epistemic).item(), rel=1e-9)


def test_the_evidential_loss_has_a_true_gradient_and_learns_noise():
    raw = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    y = torch.randn(5, dtype=torch.float64)
    torch.autograd.gradcheck(lambda r: evidential_loss(NormalInverseGamma.from_raw(r), y), (raw,))
    draw = torch.Generator().manual_seed(0)
    x = torch.rand(600, 1, generator=draw)
    truth = 2 * x[:, 0] + (0.1 + 0.9 * (x[:, 0] > 0.5)) * torch.randn(600, generator=draw)
    torch.manual_seed(0)
    head = nn.Sequential(nn.Linear(1, 32), nn.ReLU(), nn.Linear(32, 4))
    optimizer = torch.optim.Adam(head.parameters(), lr=0.02)
    for _ in range(300):
        optimizer.zero_grad()
        evidential_loss(NormalInverseGamma.from_raw(head(x)), truth).backward()
        optimizer.step()
    sd = NormalInverseGamma.from_raw(head(torch.tensor([[0.2], [0.8]]))).aleatoric.sqrt()
    assert sd[0] < 0.25 and 0.7 < sd[1] < 1.4


def features(data):
    return Features(Rows.subjects(len(data)), data, tuple(f"f{i}" for i in range(data.shape[1])))


def constant_head(raw):
    head = nn.Linear(2, len(raw))
    nn.init.zeros_(head.weight)
    head.bias.data = torch.tensor(raw)
    return head


def test_evidential_draws_follow_the_predicted_distribution():
    head = constant_head([0.3, 1.0, 2.0, 0.5, -1.0, 0.0, 1.0, 0.0])
    made = EvidentialHead(head=head, units={"LVEF": "%", "LVEDV": "mL"}, centre=(60.0, 150.0), scale=(10.0, 40.0),
                          draws=4000)
    found = made(features(torch.zeros(2, 2)), Key(0, "head"))
    assert found.batch == 8000 and found.rows.draw[:4].tolist() == [0, 1, 2, 3]
    law = NormalInverseGamma.from_raw(torch.tensor([0.3, 1.0, 2.0, 0.5]).double())
    t = stats.t(2 * law.alpha.item(), loc=60 + 10 * 0.3, scale=10 * law.scale.item())
    for row in (0, 1):
        assert stats.kstest(found["LVEF"].value[found.rows.subject == row].numpy(), t.cdf).pvalue > 1e-3
    assert found["LVEDV"].value.mean().item() == pytest.approx(150 - 40, abs=4)
    with pytest.raises(SettingError, match="four numbers"):
        three = EvidentialHead(head=nn.Linear(2, 3), units={"LVEF": "%"}, centre=(0.0,), scale=(1.0,))
        three.predict(torch.zeros(1, 2))
    with pytest.raises(SettingError, match="a centre and a scale"):
        EvidentialHead(head=head, units={"LVEF": "%"}, centre=(0.0, 1.0), scale=(1.0,))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 999), st.floats(0.05, 5), st.floats(0.05, 5), st.integers(1, 4))
def test_the_posterior_is_that_of_the_joint_gaussian(seed, noise, prior, size):
    """Conditioning (w, y) jointly, and the evidence as the density of y, by other formulas than the code's."""
    draw = torch.Generator().manual_seed(seed)
    phi, y = torch.randn(7, size, generator=draw).double(), torch.randn(7, generator=draw).double()
    found = linear_posterior(phi, y, noise_variance=noise, prior_precision=prior)
    of_y = phi @ phi.T / prior + noise * torch.eye(7, dtype=torch.float64)
    gain = phi.T / prior @ torch.linalg.inv(of_y)
    torch.testing.assert_close(found.mean, gain @ y, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(found.covariance, torch.eye(size, dtype=torch.float64) / prior - gain @ phi / prior,
                               rtol=1e-7, atol=1e-9)
    outside = stats.multivariate_normal(torch.zeros(7).numpy(), of_y.numpy()).logpdf(y.numpy())
    assert found.log_evidence == pytest.approx(float(outside), rel=1e-7, abs=1e-7)


def test_fitting_finds_the_largest_evidence_and_the_true_noise():
    draw = torch.Generator().manual_seed(0)
    phi = torch.randn(400, 5, generator=draw).double()
    y = phi @ torch.randn(5, generator=draw).double() + 0.7 * torch.randn(400, generator=draw).double()
    found = fit_posterior(phi, y)
    assert found.noise_variance**0.5 == pytest.approx(0.7, rel=0.08)
    for a in (0.9, 1.1):
        for b in (0.8, 1.25):
            other = linear_posterior(phi, y, noise_variance=a * found.noise_variance,
                                     prior_precision=b * found.prior_precision)
            assert other.log_evidence < found.log_evidence


def test_predictive_intervals_of_a_linear_world_cover_as_they_say():
    inside = []
    for seed in range(40):
        draw = torch.Generator().manual_seed(seed)
        weights = torch.randn(3, generator=draw).double()
        phi = torch.randn(215, 3, generator=draw).double()
        y = phi @ weights + 0.5 * torch.randn(215, generator=draw).double()
        found = linear_posterior(phi[:15], y[:15], noise_variance=0.25, prior_precision=1.0)
        mean, variance = found.predict(phi[15:])
        inside.append(((y[15:] - mean).abs() <= 1.6449 * variance.sqrt()).double().mean().item())
    assert sum(inside) / 40 == pytest.approx(0.9, abs=0.012)


def test_laplace_draws_have_the_predictive_moments_and_grow_away_from_the_data():
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(60, 2, generator=draw)
    mean, sd = x.double().mean(0), x.double().std(0)
    posterior = fit_posterior(design(x, mean, sd), 55 + 4 * x[:, 0] + torch.randn(60, generator=draw))
    head = LaplaceHead(posteriors={"LVEF": posterior}, units={"LVEF": "%"}, mean=mean, sd=sd, draws=5000)
    new = torch.tensor([[0.0, 0.0], [9.0, -9.0]])
    found = head(features(new), Key(0, "head"))["LVEF"].value.unflatten(0, (2, 5000))
    centre, variance = posterior.predict(design(new, mean, sd))
    torch.testing.assert_close(found.mean(1), centre, rtol=0.01, atol=0.0)
    torch.testing.assert_close(found.var(1), variance, rtol=0.08, atol=0.0)
    assert found.std(1)[1] > 1.5 * found.std(1)[0]
    with pytest.raises(SettingError, match="features and a one"):
        LaplaceHead(posteriors={"LVEF": posterior}, units={"LVEF": "%"}, mean=mean[:1], sd=sd[:1])
    with pytest.raises(SettingError, match="above zero"):
        linear_posterior(x, x[:, 0], noise_variance=0.0, prior_precision=1.0)
    with pytest.raises(SignalError, match="finite"):
        linear_posterior(x, torch.full((60,), float("nan")), noise_variance=1.0, prior_precision=1.0)


def test_mean_over_draws_leaves_out_what_no_draw_measured():
    rows = Rows.subjects(2).repeat_rows(2)
    values = torch.tensor([60.0, float("nan"), float("nan"), float("nan")])
    found = MeanOverDraws()(Phenotypes(rows, {"LVEF": Phenotype(values, "%"),
                                              "LVM": Phenotype(None, "g", reason="no muscle")}))
    assert found["LVEF"].value[0] == 60 and torch.isnan(found["LVEF"].value[1])
    assert found["LVM"].reason == "no muscle"
    again = concatenate([replace(found), found])
    assert again.batch == 4
