"""Cox's partial likelihood against other programs' numbers."""

import pytest
import torch

from firstread.core.errors import SettingError
from firstread.ops.survival import log_partial_likelihood

TIME = torch.tensor([5.0, 3, 3, 8, 1, 3, 8, 2, 5, 9], dtype=torch.float64)
EVENT = torch.tensor([1, 1, 1, 0, 1, 0, 1, 0, 1, 1]).bool()
X = torch.tensor([0.3, -1.2, 0.8, 0.1, 1.5, 0.6, -0.4, -0.9, 1.1, -0.7], dtype=torch.float64)

# statsmodels 0.15.0, PHReg(TIME, X[:, None], EVENT, ties=…).loglike([beta])
STATSMODELS = {("efron", 0.0): -10.422281345951294, ("efron", 1.0): -9.53734836453772,
               ("efron", -0.5): -11.797432580368914, ("breslow", 0.0): -10.77895628989003,
               ("breslow", 1.0): -10.057961746559506, ("breslow", -0.5): -12.115155775714465}
# where PHReg(…).fit() and, for efron, lifelines 0.30.3's CoxPHFitter (0.8757235, -9.5209335086) have the maximum
MAXIMA = {"efron": (0.87572951, -9.520933508529849), "breslow": (0.79150296, -10.01057042452557)}


@pytest.mark.parametrize(("ties", "beta"), sorted(STATSMODELS))
def test_values_of_statsmodels(ties, beta):
    found = log_partial_likelihood(beta * X, TIME, EVENT, ties=ties)
    assert found.item() == pytest.approx(STATSMODELS[ties, beta], rel=1e-12)


@pytest.mark.parametrize("ties", sorted(MAXIMA))
def test_the_gradient_vanishes_where_others_found_the_maximum(ties):
    beta = torch.tensor(MAXIMA[ties][0], dtype=torch.float64, requires_grad=True)
    value = log_partial_likelihood(beta * X, TIME, EVENT, ties=ties)
    value.backward()
    assert value.item() == pytest.approx(MAXIMA[ties][1], rel=1e-10) and abs(beta.grad.item()) < 1e-5


@pytest.mark.parametrize("ties", sorted(MAXIMA))
def test_gradient_is_that_of_finite_differences_and_only_differences_of_risk_count(ties):
    risk = X.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda r: log_partial_likelihood(r, TIME, EVENT, ties=ties), risk)
    shifted = log_partial_likelihood(X + 800, TIME, EVENT, ties=ties)
    torch.testing.assert_close(shifted, log_partial_likelihood(X, TIME, EVENT, ties=ties))


def test_without_ties_both_are_the_same():
    time = torch.arange(10, dtype=torch.float64)
    one, other = (log_partial_likelihood(X, time, EVENT, ties=ties) for ties in ("efron", "breslow"))
    torch.testing.assert_close(one, other)


def test_nobody_died():
    with pytest.raises(SettingError, match="no event among 10"):
        log_partial_likelihood(X, TIME, ~EVENT & EVENT)
