"""A chain trained as one: gradient of an ``Objective`` through all stages, subject by subject."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from firstread.core.batched import concatenate
from firstread.core.case import Case
from firstread.core.errors import GradientError, SettingError
from firstread.core.stage import Chain
from firstread.learn.objectives import CohortTerm, Objective, subject_count


def joint_loss(chain: Chain, cases: Sequence[Case], objective: Objective, *, recompute: Collection[str] = (),
               samples: int = 1) -> Float[Tensor, ""]:
    """The objective of some cases with its graph, all of them in memory at once.

    recompute: results whose stages run again for the gradient instead of keeping what it needs; samples: draws of each
    case. Raises GradientError where :func:`check_gradients` does.
    """
    _some(cases)
    check_gradients(chain, objective, cases[0])
    return objective([chain(case, samples=samples, recompute=recompute) for case in cases])


def accumulate(chain: Chain, cases: Sequence[Case], objective: Objective, *, recompute: Collection[str] = (),
               samples: int = 1) -> Float[Tensor, ""]:
    """The same number without graph, its gradient added to the parameters'; one case in memory at a time.

    Terms that need all subjects at once take two passes: first all numbers ``v_s`` without graph and from them
    ``g_s = ∂L/∂v_s``, then case by case the gradient of ``g_s v_s``; their sum is the gradient of L. Both passes see
    the same random numbers. (Running statistics of a batch norm are updated by both.)
    """
    _some(cases)
    check_gradients(chain, objective, cases[0])
    total = torch.zeros((), dtype=torch.float64)
    slopes: list[list[Tensor]] = [[] for _ in cases]
    states: list[list[Tensor]] = []
    if objective.of_cohorts:
        made = []
        with torch.no_grad():
            for case in cases:
                states.append(_random_state())
                made.append(_kept(chain(case, samples=samples), objective.of_cohorts))
        for term in objective.of_cohorts:
            value, slope = _value_and_slopes(term, made)
            total = total + value
            for own, part in zip(slopes, slope, strict=True):
                own.append(part)
    count = sum(subject_count(case) for case in cases)
    for number, case in enumerate(cases):
        if states:
            _set_random_state(states[number])
        done = chain(case, samples=samples, recompute=recompute)
        own = sum(t.weight * t.sum_over_subjects(done) / count for t in objective.of_subjects)
        pulled = sum((g * t.values(done)).sum() for g, t in zip(slopes[number], objective.of_cohorts, strict=True))
        (own + pulled).backward()
        total = total + (own.detach().double().cpu() if isinstance(own, Tensor) else 0)
    return total


def _some(cases: Sequence[Case]) -> None:
    if not cases:
        raise SettingError("a batch without cases", expected="one case or more", remedy="check the source of the cases")


def _value_and_slopes(term: CohortTerm, cases: Sequence[Case]) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The weighted term over cases that went through the chain, and for each case ``∂/∂v`` at its subjects' numbers."""
    values = [term.values(case) for case in cases]
    leaf = torch.cat(values).detach().requires_grad_()
    with torch.enable_grad():
        value = term.weight * term.loss(leaf, concatenate([term.truths(case) for case in cases]))
    slope, = torch.autograd.grad(value, leaf)
    return value.detach().double().cpu(), slope.split([len(v) for v in values])


def check_gradients(chain: Chain, objective: Objective, case: Case) -> None:
    """Refuse what cannot be trained: every term must reach a trained stage, every trained stage must be reached.

    Raises SettingError for a term whose truth nobody makes, GradientError naming the stage in the way.
    """
    sources = chain.sources({name: type(record) for name, record in case.items()})
    for term in objective.terms:
        if term.truth not in case and term.truth not in sources:
            raise SettingError(f"a loss on {term.result!r} against {term.truth!r}, which the case does not hold",
                               expected=f"one of {', '.join(sorted(case))}",
                               remedy="correct `truth`, or add the record")
    trained = {s.writes for s in chain.steps if any(p.requires_grad for p in s.parameters())}
    if not trained:
        raise GradientError("a chain without a trained parameter", expected="one stage or more that is not frozen",
                            remedy="unfreeze a stage, or train nothing")
    reached: set[str] = set()
    blocked: dict[str, str] = {}
    for term in objective.terms:
        open_, closed = _reach(chain, sources, term.result)
        if not open_ & trained:
            ways = sorted({chain.stage(stage).name for stage in closed.values()})
            raise GradientError(f"a loss on {term.result!r} whose gradient " + (
                f"stops at stage {', '.join(map(repr, ways))}" if ways else "meets no trained stage"),
                expected="a way back to a trained stage",
                remedy="replace that stage by a differentiable one, or put the loss before it" if ways else
                "unfreeze a stage before it, or leave the term out")
        reached |= open_
        blocked |= closed
    for lost in sorted(trained - reached):
        name = chain.stage(lost).name
        way = f", stage {chain.stage(blocked[lost]).name!r} is in the way" if lost in blocked else ""
        raise GradientError(f"stage {name!r}, which is trained but reached by no loss{way}",
                            expected="a loss that depends on every trained stage",
                            remedy="replace the stage in the way" if way else
                            f"add a term on a later result, or freeze(chain, {lost!r})")


def _reach(chain: Chain, sources: Mapping[str, tuple[str, ...]], result: str) -> tuple[set[str], dict[str, str]]:
    """The stages that a gradient from ``result`` reaches; those that it does not, each with the stage in the way."""
    opened: set[str] = set()
    closed: dict[str, str] = {}
    waiting: list[tuple[str, str | None]] = [(result, None)]
    chain.stage(result)
    while waiting:
        name, barrier = waiting.pop()
        if name not in sources or name in opened or (barrier is not None and name in closed):
            continue
        if barrier is None and not chain.stage(name).differentiable:
            barrier = name
        if barrier is None:
            opened.add(name)
        else:
            closed[name] = barrier
        waiting += [(source, barrier) for source in sources[name]]
    return opened, {name: barrier for name, barrier in closed.items() if name not in opened}


def freeze(chain: Chain, *results: str) -> Chain:
    """The chain itself, with the parameters of the stages that write ``results`` no longer trained."""
    for name in results:
        chain.stage(name).requires_grad_(False)
    return chain


def rates_of(chain: Chain, factors: Mapping[str, float]) -> dict[str, float]:
    """Factors of learning rates by result, as ``fit`` wants them: by the beginning of parameter names."""
    return {f"stages.{chain.steps.index(chain.stage(name))}.": factor for name, factor in factors.items()}


def load_fitting(module: nn.Module, state: Mapping[str, Any]) -> list[str]:
    """Warm start: load what has the same name and shape; the names of the parameters that were not there.

    Raises SettingError where nothing fits.
    """
    own = module.state_dict()
    fitting = {name: value for name, value in state.items() if name in own and own[name].shape == value.shape}
    if not fitting:
        raise SettingError(f"{len(state)} weights of which none fits",
                           expected="some of the network's names and shapes",
                           remedy="take the weights of the same architecture, or begin without")
    module.load_state_dict(fitting, strict=False)
    return sorted(set(own) - set(fitting))


def _kept(case: Case, terms: Sequence[CohortTerm]) -> Case:
    """The case with what the terms need of it, so that images of the first pass are not held."""
    return Case({name: case[name] for term in terms for name in (term.result, term.truth)})


def _random_state() -> list[Tensor]:
    return [torch.get_rng_state(), *(torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [])]


def _set_random_state(state: list[Tensor]) -> None:
    torch.set_rng_state(state[0])
    if len(state) > 1:
        torch.cuda.set_rng_state_all(state[1:])
