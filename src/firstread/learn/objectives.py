"""What a chain is trained for: weighted losses on any of its results.

A ``Term`` is a mean over subjects; a ``CohortTerm`` is a loss on the numbers of all subjects together, such as Cox's
partial likelihood or a correlation. Rows are grouped by subject: a draw, a part or a member of an ensemble is never a
new patient.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from firstread.core.batched import concatenate
from firstread.core.case import Case
from firstread.core.errors import SettingError
from firstread.core.records import Record, Rows
from firstread.learn.row_losses import RowLoss, RowValue, value_of
from firstread.ops.survival import log_partial_likelihood

CohortLoss = Callable[[Float[Tensor, " subjects"], Record], Float[Tensor, ""]]


@dataclass(frozen=True, kw_only=True)
class Term:
    """``weight · mean over subjects of the mean over their rows of loss(result, truth)``.

    result, truth: names of two records of the case; loss: one value per row of ``result``, given the rows of ``truth``
    of the same subject and part.
    """

    result: str
    truth: str
    loss: RowLoss
    weight: float | int = 1

    def sum_over_subjects(self, case: Case) -> Float[Tensor, ""]:
        """The loss without its weight, summed over the subjects of one case."""
        made, truth = case[self.result], case[self.truth]
        return subject_means(self.loss(made, truth.select(matching(made.rows, truth.rows))), made.rows).sum()


@dataclass(frozen=True, kw_only=True)
class CohortTerm:
    """``weight · loss(v_1 … v_n)`` over all subjects of a batch, v_s the mean over the subject's rows of ``value``.

    loss: numbers and truth, a row per subject in the same order, to a scalar.
    """

    result: str
    truth: str
    value: RowValue
    loss: CohortLoss
    weight: float | int = 1

    def values(self, case: Case) -> Float[Tensor, " subjects"]:
        """One number per subject of the case, in the order of their numbers."""
        made = case[self.result]
        return subject_means(self.value(made), made.rows)

    def truths(self, case: Case) -> Record:
        """The truth, one row per subject in the same order."""
        rows, truth = case[self.result].rows, case[self.truth]
        first = torch.stack([(rows.subject == s).nonzero()[0, 0] for s in torch.unique(rows.subject)])
        return truth.select(matching(rows, truth.rows)[first])


@dataclass(frozen=True)
class Objective:
    """The sum of its terms."""

    terms: Sequence[Term | CohortTerm]

    def __post_init__(self):
        if not self.terms or any(not 0 < t.weight < math.inf for t in self.terms):
            raise SettingError(f"weights {[t.weight for t in self.terms]}", expected="one term or more, finite weights "
                               "above zero", remedy="leave out what shall not count")

    @property
    def of_subjects(self) -> list[Term]:
        """The terms that are means over subjects."""
        return [t for t in self.terms if isinstance(t, Term)]

    @property
    def of_cohorts(self) -> list[CohortTerm]:
        """The terms that need all subjects at once."""
        return [t for t in self.terms if isinstance(t, CohortTerm)]

    def parts(self, cases: Sequence[Case]) -> list[Float[Tensor, ""]]:
        """Each term without its weight, over cases that went through the chain."""
        count = sum(subject_count(case) for case in cases)
        made = []
        for term in self.terms:
            if isinstance(term, Term):
                made.append(torch.stack([term.sum_over_subjects(case) for case in cases]).sum() / count)
            else:
                values = torch.cat([term.values(case) for case in cases])
                made.append(term.loss(values, concatenate([term.truths(case) for case in cases])))
        return made

    def __call__(self, cases: Sequence[Case]) -> Float[Tensor, ""]:
        """``Σ weight · term``."""
        return torch.stack([t.weight * part for t, part in zip(self.terms, self.parts(cases), strict=True)]).sum()


def matching(rows: Rows, others: Rows) -> Int[Tensor, " rows"]:
    """For each of ``rows`` the first of ``others`` that is of the same subject and part.

    Raises SettingError where there is none.

    >>> matching(Rows.parts(2).repeat_rows(2), Rows.parts(2)).tolist()
    [0, 0, 1, 1]
    """
    same = (rows.subject[:, None] == others.subject) & (rows.part[:, None] == others.part)
    if not bool(same.any(dim=1).all()):
        lost = int((~same.any(dim=1)).nonzero()[0, 0])
        raise SettingError(f"no truth for subject {int(rows.subject[lost])}, part {int(rows.part[lost])}",
                           expected="a row of the truth for every row of the result",
                           remedy="give the truth the rows of the input")
    return same.int().argmax(dim=1)


def subject_means(values: Float[Tensor, " rows"], rows: Rows) -> Float[Tensor, " subjects"]:
    """Mean of ``values`` over the rows of each subject, in the order of the subjects' numbers.

    >>> subject_means(torch.tensor([1.0, 3.0]), Rows.subjects(1).repeat_rows(2)).tolist()
    [2.0]
    """
    subjects, group = torch.unique(rows.subject.to(values.device), return_inverse=True)
    total = values.new_zeros(len(subjects)).index_add(0, group, values)
    return total / torch.bincount(group).to(values)


def subject_count(case: Case) -> int:
    """How many subjects a case holds."""
    return len(torch.unique(torch.cat([record.rows.subject for record in case.values()])))


def cox(*, time: str = "time", event: str = "event") -> CohortLoss:
    """Cox's negative log partial likelihood per event, Efron's way with ties.

    time, event: the phenotypes of the truth that hold the follow-up and whether it ended with the event (1 or 0).
    """
    def loss(risk: Tensor, truth: Record) -> Tensor:
        died = value_of(event)(truth) > 0.5
        return -log_partial_likelihood(risk, value_of(time)(truth), died) / died.sum()
    return loss


def correlation(name: str) -> CohortLoss:
    """``1 - r``, r Pearson's correlation with the phenotype ``name`` of the truth."""
    def loss(values: Tensor, truth: Record) -> Tensor:
        v, t = values - values.mean(), value_of(name)(truth).to(values)
        t = t - t.mean()
        if len(v) < 2 or not bool(v.any()) or not bool(t.any()):
            raise SettingError(f"the correlation of {len(v)} subjects", expected="two or more whose numbers differ",
                               remedy="put more subjects into a batch")
        return 1 - (v * t).sum() / (v.square().sum() * t.square().sum()).sqrt()
    return loss
