"""Cox's partial likelihood: a loss on the risks of all subjects together."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from firstread.core.errors import SettingError


def log_partial_likelihood(risk: Float[Tensor, " subjects"], time: Float[Tensor, " subjects"],
                           event: Bool[Tensor, " subjects"], *,
                           ties: Literal["efron", "breslow"] = "efron") -> Float[Tensor, ""]:
    """Log partial likelihood of the log hazards ``risk`` (Cox 1972).

    With the ``d`` subjects D who die at time t and the risk set R, those with ``time >= t``, t adds

        breslow:  Σ_D r  -  d log Σ_R exp r
        efron:    Σ_D r  -  Σ_{l < d} log(Σ_R exp r - (l / d) Σ_D exp r)

    time: follow-up in any unit; event: whether it ended with the event (False: censored). Where no two events share
    their time both are the same. Differentiable in ``risk``. Raises SettingError where no event was observed.
    Sources: Breslow 1974, Efron 1977.

    >>> r, t = torch.zeros(3), torch.tensor([1.0, 2.0, 3.0])
    >>> round(log_partial_likelihood(r, t, torch.tensor([True, True, False])).exp().item(), 4)  # 1/3 * 1/2
    0.1667
    """
    if not bool(event.any()):
        raise SettingError(f"no event among {len(time)} subjects", expected="one event or more in a risk set",
                           remedy="take larger batches, or batches that hold an event each")
    if ties not in ("efron", "breslow"):
        raise SettingError(f"ties {ties!r}", expected="'efron' or 'breslow'", remedy="choose one of the two")
    top = risk.detach().max()
    hazard = torch.exp(risk - top)
    total = risk.new_zeros(())
    for moment in torch.unique(time[event]):
        dead, at_risk = event & (time == moment), hazard[time >= moment].sum()
        count = int(dead.sum())
        share = torch.arange(count, dtype=risk.dtype, device=risk.device) / count if ties == "efron" else 0.0
        tied = hazard[dead].sum() * share
        logs = torch.log(at_risk - tied) if ties == "efron" else count * torch.log(at_risk)
        total = total + (risk[dead] - top).sum() - logs.sum()
    return total
