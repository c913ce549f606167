"""What every stage must do, whatever it does: found by itself, so that a new stage without a case fails here."""

import importlib
import inspect
import pkgutil
from inspect import isabstract

import pytest
import torch
from cases import CASES

import firstread
from firstread.core.case import Case
from firstread.core.keys import Key
from firstread.core.records import Record
from firstread.core.stage import Chain, Stage


def stages() -> list[type[Stage]]:
    """All public Stage classes of the package."""
    found = set()
    for module in pkgutil.walk_packages(firstread.__path__, "firstread."):
        for name, kind in inspect.getmembers(importlib.import_module(module.name), inspect.isclass):
            if issubclass(kind, Stage) and kind is not Stage and not name.startswith("_") and not isabstract(kind):
                found.add(kind)
    return sorted(found, key=lambda kind: kind.__name__)


def run(stage: Stage, records: dict[str, Record]) -> Record:
    key = {"key": Key(5, stage.name)} if stage.random else {}
    return stage(**records, **key)


def test_every_stage_has_a_case():
    assert {kind.__name__ for kind in stages()} == set(CASES)


@pytest.fixture(params=sorted(CASES), scope="module")
def case(request):
    return CASES[request.param]()


def test_repeats_itself_and_changes_no_input(case):
    before = {name: [t.clone() for t in record.tensors()] for name, record in case.records.items()}
    first, second = run(case.stage, case.records), run(case.stage, case.records)
    for one, other in zip(first.tensors(), second.tensors(), strict=True):
        torch.testing.assert_close(one, other, equal_nan=True)
    for name, record in case.records.items():
        for old, new in zip(before[name], record.tensors(), strict=True):
            torch.testing.assert_close(old, new, equal_nan=True, rtol=0, atol=0)


def test_state_survives_a_round_trip(case):
    again = CASES[type(case.stage).__name__]().stage
    again.load_state_dict(case.stage.state_dict())
    for one, other in zip(run(case.stage, case.records).tensors(), run(again, case.records).tensors(), strict=True):
        torch.testing.assert_close(one, other, equal_nan=True)


def test_rows_are_those_of_the_input(case):
    given = {int(s) for record in case.records.values() for s in record.rows.subject}
    made = run(case.stage, case.records)
    assert {int(s) for s in made.rows.subject} == given
    assert all(t.shape[0] == made.batch for t in made.tensors())


def test_two_subjects_together_are_each_alone(case):
    if not case.batches:
        pytest.skip("takes one subject at a time, and says so")
    double = {name: _renumber(record) for name, record in case.records.items()}
    both, alone = run(case.stage, double), run(case.stage, case.records)
    half = both.select(torch.nonzero(both.rows.subject == 0)[:, 0])
    for one, other in zip(_floats(half), _floats(alone), strict=True):
        torch.testing.assert_close(one, other, equal_nan=True, rtol=1e-3, atol=1e-4)


def test_gradient_reaches_the_input(case):
    if case.gradient is None:
        pytest.skip("not differentiable: measured from hard labels, or a decision")
    name = case.gradient
    records = dict(case.records)
    leaf = records[name].data.detach().clone().requires_grad_()
    records[name] = _with_data(records[name], leaf)
    made = run(case.stage, records)
    sum(t.abs().square().nansum() for t in _floats(made) if t.requires_grad).backward()
    assert leaf.grad is not None and bool(torch.isfinite(torch.view_as_real(leaf.grad + 0j)).all())
    assert leaf.grad.abs().sum() > 0


def gradients(case, *, copies: int = 1, recompute: tuple[str, ...] = ()) -> list[torch.Tensor]:
    """Of the mean over draws of a loss on the stage's result: at its input and its parameters."""
    leaf = case.records[case.gradient].data.detach().clone().requires_grad_()
    records = {**case.records, case.gradient: _with_data(case.records[case.gradient], leaf)}
    case.stage.zero_grad()
    given = Case(records, seed=5)
    chain = Chain(case.stage.using(writes="made"))
    made = chain(given if copies == 1 else given.draws(copies), recompute=recompute)["made"]
    (sum(t.abs().square().nansum() for t in _floats(made) if t.requires_grad) / copies).backward()
    return [leaf.grad, *(p.grad for p in case.stage.parameters() if p.grad is not None)]


def test_checkpointed_it_has_the_same_gradient(case):
    if case.gradient is None:
        pytest.skip("not differentiable")
    for one, other in zip(gradients(case), gradients(case, recompute=("made",)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-7)


def test_copies_of_one_draw_have_its_gradient(case):
    if case.gradient is None or case.stage.random:
        pytest.skip("not differentiable, or each draw is another")
    for one, other in zip(gradients(case), gradients(case, copies=3), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3 * one.abs().max().item())


def test_runs_in_a_chain(case):
    made = Chain(case.stage.using(writes="made"))(Case(case.records, seed=5))
    assert isinstance(made["made"], case.stage.makes)


def _renumber(record: Record) -> Record:
    from dataclasses import replace

    from firstread.core.batched import concatenate

    second = replace(record, rows=replace(record.rows, subject=record.rows.subject + 1))
    return concatenate([record, second])


def _with_data(record: Record, data: torch.Tensor) -> Record:
    from dataclasses import replace

    return replace(record, data=data)


def _floats(record: Record) -> list[torch.Tensor]:
    return [t for t in record.tensors() if t.is_floating_point() or t.is_complex()]
