"""Stage (one step of the chain) and Chain (stages in a row, as one differentiable program).

A stage is an ``nn.Module`` whose ``forward`` has typed arguments; the Chain finds for each argument the record of
that kind:

1. the record that was named with ``stage.using(reads={"image": "sax"})``;
2. the record that has the argument's name (``pet: Image``; one named after its kind, ``image: Image``, takes any);
3. the result of the stage before;
4. the only record of the kind; two are an error that names both.

An argument of type ``Key`` gets the stage's own randomness. An argument ``X | None`` may be left without a record.
"""

from __future__ import annotations

import copy
import inspect
import re
import time
import types
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any, ClassVar, TypeVar, Union, cast, get_args, get_origin, get_type_hints

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from firstread.core.case import Case
from firstread.core.errors import AmbiguousRecordError, ChainError, MissingRecordError
from firstread.core.keys import Key
from firstread.core.provenance import Step, peak_memory_mb, weights_hash
from firstread.core.records import Labels, Record

S = TypeVar("S", bound="Stage")


class Argument:
    """One argument of a stage: its name, the kind of record it takes, and whether it may be absent."""

    def __init__(self, name: str, kind: type, optional: bool):
        self.name, self.kind, self.optional = name, kind, optional


class Stage(nn.Module):
    """One step: typed records in, one record out.

    result: the name that the record it makes gets in the case.
    differentiable: False where no gradient passes from the result to parameters and input.
    """

    result: ClassVar[str] = ""
    differentiable: bool = True

    def __init__(self) -> None:
        super().__init__()
        self._reads: dict[str, str] = {}
        self._writes = ""

    @property
    def name(self) -> str:
        """The class's name in lower case with underscores."""
        return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", type(self).__name__).lower()

    @property
    def writes(self) -> str:
        """The name of the record that this stage adds."""
        return self._writes or self.result or self.name

    @property
    def arguments(self) -> list[Argument]:
        """The records that ``forward`` reads."""
        hints = get_type_hints(self.forward)
        found = []
        for name in inspect.signature(self.forward).parameters:
            kind, optional = _kind(hints.get(name))
            if kind is not Key:
                found.append(Argument(name, kind, optional))
        return found

    @property
    def makes(self) -> type[Record]:
        """The kind of record that ``forward`` returns."""
        return get_type_hints(self.forward)["return"]

    @property
    def random(self) -> bool:
        """Whether ``forward`` draws random numbers (takes a Key)."""
        return Key in get_type_hints(self.forward).values()

    def using(self: S, *, reads: Mapping[str, str] | None = None, writes: str | None = None) -> S:
        """The same stage (parameters shared) reading and writing records of stated names."""
        for argument in reads or {}:
            if argument not in {a.name for a in self.arguments}:
                raise ChainError(f"no argument {argument!r} in {self.name}",
                                 expected=f"one of {[a.name for a in self.arguments]}", remedy="correct `reads`")
        named = copy.copy(self)
        named._reads = {**self._reads, **(reads or {})}
        named._writes = writes or self._writes
        return named

    def settings(self) -> str:
        """The constructor's arguments as they stand, for the trail."""
        names = [n for n in inspect.signature(type(self).__init__).parameters if n != "self"]
        values = {n: getattr(self, n, None) for n in names}
        return ", ".join(f"{n}={v!r}" for n, v in values.items() if isinstance(v, str | int | float | bool | tuple))

    def named_for(self, name: str) -> str | None:
        """The record name stated for argument ``name``, if any."""
        return self._reads.get(name)


class Chain(nn.Module):
    """Stages in a row, one differentiable program over a Case.

    inputs: the kinds of the records that a case brings, by name; stating them lets the Chain refuse a misfit here,
    otherwise whatever no stage makes is expected from the case.

    >>> from firstread.core.wrap import wrap
    >>> from firstread.core.records import Image
    >>> double = wrap(lambda data: 2 * data, reads=Image, writes=Image, axes="yx", name="double")
    >>> Chain(double).describe()
    'double(image: Image) -> double'
    """

    def __init__(self, *stages: Stage | Chain, inputs: Mapping[str, type[Record]] | None = None) -> None:
        super().__init__()
        flat: list[Stage] = [s for stage in stages for s in (stage.steps if isinstance(stage, Chain) else [stage])]
        for stage in flat:
            if not isinstance(stage, Stage):
                raise ChainError(f"{type(stage).__name__} in a chain", expected="a Stage",
                                 remedy="turn it into one with wrap(module, reads=…, writes=…)")
        self.stages = nn.ModuleList(flat)
        self.inputs = dict(inputs) if inputs is not None else None
        self._check()

    @property
    def steps(self) -> list[Stage]:
        """The stages in their order."""
        return cast("list[Stage]", list(self.stages))

    def _check(self) -> None:
        """Refuse, before any data, what cannot be resolved."""
        known: dict[str, type[Record]] = dict(self.inputs or {})
        last: str | None = None
        for stage in self.steps:
            for argument in stage.arguments:
                found = _resolve(stage, argument, known, last)
                if found is None and self.inputs is not None and not argument.optional:
                    raise _missing(stage, argument, known)
                if found is not None and not _fits(known[found], argument.kind):
                    raise ChainError(f"record {found!r}, a {known[found].__name__}, for {stage.name}({argument.name})",
                                     expected=f"a {argument.kind.__name__}", remedy="name another record in `reads`")
            if stage.writes in known:
                raise AmbiguousRecordError(f"two records named {stage.writes!r} (the second from {stage.name})",
                                           expected="a name of its own for each record",
                                           remedy=f"use {type(stage).__name__}(…).using(writes='another name')")
            known[stage.writes] = stage.makes
            last = stage.writes

    def stage(self, writes: str) -> Stage:
        """The stage that writes the record ``writes`` (names of stages may repeat, those of results never do)."""
        for stage in self.steps:
            if stage.writes == writes:
                return stage
        raise MissingRecordError(f"no stage that writes {writes!r}", remedy="name the stage by its result",
                                 expected=f"one of {[s.writes for s in self.steps]}")

    def replacing(self, writes: str, stage: Stage) -> Chain:
        """This chain with another stage in the place of the one that writes ``writes``; all others are shared."""
        old = self.stage(writes)
        return Chain(*(stage.using(writes=writes) if s is old else s for s in self.steps), inputs=self.inputs)

    def sources(self, given: Mapping[str, type[Record]]) -> dict[str, tuple[str, ...]]:
        """By result, the records that it is made of directly, for a case of the kinds ``given``."""
        known, last = dict(given), None
        made: dict[str, tuple[str, ...]] = {}
        for stage in self.steps:
            found = [_resolve(stage, argument, known, last) for argument in stage.arguments]
            made[stage.writes] = tuple(name for name in found if name is not None)
            known[stage.writes] = stage.makes
            last = stage.writes
        return made

    def forward(self, case: Case | Record, samples: int = 1, watch: Callable[[Stage], None] | None = None,
                recompute: Collection[str] = ()) -> Case:
        """Run all stages; ``samples=k`` draws k times from the first random stage on (rows.draw = 0 … k − 1).

        watch: called with each stage before it runs (progress).
        recompute: results whose stages keep nothing for the gradient but run once more when it comes (checkpointing):
            less memory, the same gradient.
        """
        if isinstance(case, Record):
            case = Case({default_name(type(case)): case})
        for name in recompute:
            self.stage(name)
        last: str | None = None
        drawn = samples == 1
        for stage in self.steps:
            if stage.random and not drawn:
                case, drawn = case.draws(samples), True
            arguments: dict[str, Any] = {}
            kinds = {name: type(record) for name, record in case.items()}
            for argument in stage.arguments:
                found = _resolve(stage, argument, kinds, last)
                if found is None and not argument.optional:
                    raise _missing(stage, argument, kinds)
                arguments[argument.name] = None if found is None else case[found]
            for name, hint in get_type_hints(stage.forward).items():
                if hint is Key:
                    arguments[name] = Key(case.seed, stage.name)
            if watch is not None:
                watch(stage)
            started = time.perf_counter()
            again = stage.writes in recompute and torch.is_grad_enabled()
            record = checkpoint(stage, use_reentrant=False, **arguments) if again else stage(**arguments)
            step = Step(stage.name, stage.settings(), weights_hash(stage) if not self.training else None,
                        time.perf_counter() - started, peak_memory_mb())
            if stage.writes in case:
                raise AmbiguousRecordError(f"a case that already has a record {stage.writes!r}",
                                           expected=f"a free name for the result of {stage.name}",
                                           remedy=f"use {type(stage).__name__}(…).using(writes='another name')")
            case, last = case.adding(stage.writes, record, step), stage.writes
        if not drawn:
            case = case.draws(samples)
        return case

    def over(self, source: Iterable[Case], *, samples: int = 1) -> Iterator[Case]:
        """The one loop: every case of ``source`` through the chain, one at a time."""
        for case in source:
            yield self(case, samples=samples)

    def describe(self) -> str:
        """One line a stage: name, arguments, result."""
        return "\n".join(f"{s.name}({', '.join(f'{a.name}: {a.kind.__name__}' for a in s.arguments)}) -> {s.writes}"
                         for s in self.steps)


def default_name(kind: type) -> str:
    """What a record of this kind is called where nobody names it: ``image``, ``kspace``, ``labels`` …"""
    return "labels" if issubclass(kind, Labels) else kind.__name__.lower()


def _kind(hint: Any) -> tuple[type, bool]:
    if get_origin(hint) in (Union, types.UnionType):
        kinds = [a for a in get_args(hint) if a is not type(None)]
        return kinds[0], type(None) in get_args(hint)
    if not isinstance(hint, type):
        raise ChainError("a stage argument without a type", expected="forward(image: Image, …) -> Image",
                         remedy="annotate every argument and the result of `forward`")
    return hint, False


def _fits(kind: type, wanted: type) -> bool:
    return issubclass(kind, wanted) or (issubclass(wanted, kind) and kind is not Record)


def _resolve(stage: Stage, argument: Argument, known: Mapping[str, type], last: str | None) -> str | None:
    stated = stage.named_for(argument.name)
    if stated is not None:
        return stated if stated in known else None
    fitting = [name for name, kind in known.items() if _fits(kind, argument.kind)]
    if argument.name in fitting and argument.name != default_name(argument.kind):
        return argument.name
    if last in fitting:
        return last
    if len(fitting) > 1:
        raise AmbiguousRecordError(f"{len(fitting)} records ({', '.join(fitting)}) for {stage.name}({argument.name}: "
                                   f"{argument.kind.__name__})", expected="one",
                                   remedy=f"name it: .using(reads={{{argument.name!r}: {fitting[0]!r}}})")
    return fitting[0] if fitting else None


def _missing(stage: Stage, argument: Argument, known: Mapping[str, type]) -> MissingRecordError:
    stated, kind = stage.named_for(argument.name), argument.kind.__name__
    return MissingRecordError(f"nothing for {stage.name}({argument.name}: {kind})",
                              expected=f"a record {stated!r}" if stated else f"a {kind} in the case or from a stage",
                              remedy=f"add it to the case ({sorted(known) or 'no records'}) or a stage that makes it")
