"""Stage (one step of the chain), Chain (stages in a row, as one differentiable program) and ``wrap``.

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
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, ClassVar, TypeVar, Union, cast, get_args, get_origin, get_type_hints

import torch
from torch import Tensor, nn

from firstread.core.case import Case
from firstread.core.errors import AmbiguousRecordError, ChainError, GradientError, MissingRecordError
from firstread.core.keys import Key
from firstread.core.provenance import Step, peak_memory_mb, weights_hash
from firstread.core.records import HardLabels, Image, Labels, Record, SoftLabels

S = TypeVar("S", bound="Stage")


class Argument:
    """One argument of a stage: its name, the kind of record it takes, and whether it may be absent."""

    def __init__(self, name: str, kind: type, optional: bool):
        self.name, self.kind, self.optional = name, kind, optional


class Stage(nn.Module):
    """One step: typed records in, one record out.

    result: the name that the record it makes gets in the case.
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

    >>> from firstread.core.stage import Chain, wrap
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

    def forward(self, case: Case | Record, samples: int = 1, watch: Callable[[Stage], None] | None = None) -> Case:
        """Run all stages; ``samples=k`` draws k times from the first random stage on (rows.draw = 0 … k − 1).

        watch: called with each stage before it runs (progress).
        """
        if isinstance(case, Record):
            case = Case({_default_name(type(case)): case})
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
            record = stage(**arguments)
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


def _default_name(kind: type) -> str:
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
    if argument.name in fitting and argument.name != _default_name(argument.kind):
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


class _NoGradient(torch.autograd.Function):
    """Identity whose backward refuses, naming the stage."""

    @staticmethod
    def forward(ctx, name: str, output: Tensor, *inputs: Tensor) -> Tensor:
        ctx.name = name
        return output.view_as(output)

    @staticmethod
    def backward(ctx, *grads):
        raise GradientError(f"a gradient asked through stage {ctx.name!r}", expected="a differentiable stage",
                            remedy="replace it by one, or detach its input if no gradient is meant to pass")


class _Wrapped(Stage):
    """A module or callable as a stage; made by ``wrap``."""

    def __init__(self, module: Callable[..., Any], reads: Mapping[str, type[Record]], writes: type[Record], name: str,
                 axes: str | None, names: tuple[str, ...], differentiable: bool) -> None:
        super().__init__()
        self.module = module
        self.reads, self.kind, self.axes, self.names = dict(reads), writes, axes, names
        self.stage_name, self.differentiable = name, differentiable

    @property
    def name(self) -> str:
        return self.stage_name

    @property
    def arguments(self) -> list[Argument]:
        return [Argument(name, kind, False) for name, kind in self.reads.items()]

    @property
    def makes(self) -> type[Record]:
        return self.kind

    @property
    def random(self) -> bool:
        return False

    def settings(self) -> str:
        return f"axes={self.axes!r}" if self.axes else ""

    def forward(self, *args: Any, **records: Record) -> Record:
        inputs = list(args) + list(records.values())
        like = inputs[0]
        context = torch.enable_grad() if self.differentiable and torch.is_grad_enabled() else torch.no_grad()
        with context:
            if self.axes is None:
                made = self.module(*inputs)
            else:
                folded = [_fold(record.data, self.axes) for record in inputs]
                made = _unfold(self.module(*folded), like.data, self.axes, self.name)
        record = made if isinstance(made, Record) else self._record(made, like)
        if not isinstance(record, self.kind):
            raise ChainError(f"a {type(record).__name__} from stage {self.name!r}", expected=f"a {self.kind.__name__}",
                             remedy="state in `writes` what it returns")
        if self.differentiable:
            return record
        anchors = [t for r in inputs for t in r.tensors() if t.requires_grad]
        if not anchors or not torch.is_grad_enabled():
            return record
        return record.map(lambda t: _NoGradient.apply(self.name, t, *anchors) if _can_have_gradient(t) else t)

    def _record(self, data: Tensor, like: Any) -> Record:
        place = {"times_s": like.times_s, "cycle_s": like.cycle_s, "source": like.source}
        if data.shape[-3:] != tuple(like.grid.shape):
            raise ChainError(f"data of shape {tuple(data.shape[-3:])} from stage {self.name!r}",
                             expected=f"the (z, y, x) shape of its input, {like.grid.shape}",
                             remedy="return a record with a grid of its own")
        if self.kind is Image:
            return Image(like.rows, data, like.grid, **place)
        if issubclass(self.kind, Labels):
            kind = HardLabels if self.kind is HardLabels else SoftLabels
            return kind(like.rows, data, like.grid, self.names, **place)
        raise ChainError(f"a tensor from stage {self.name!r}", expected=f"a {self.kind.__name__}",
                         remedy="return the record itself")


def _can_have_gradient(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()


def wrap(module: Callable[..., Any], *, reads: type[Record] | Mapping[str, type[Record]], writes: type[Record],
         axes: str | None = None, names: tuple[str, ...] = (), name: str | None = None,
         result: str | None = None) -> Stage:
    """Any PyTorch module, or any callable, as a Stage.

    axes: the axes that the module sees behind batch and channel: ``"yx"`` gives it ``[N, channel, y, x]`` (time and z
    folded into N), ``"zyx"`` gives ``[N, channel, z, y, x]``. Without it the callable gets the records themselves and
    returns a record (or a tensor of the six axes).
    names: class names when it writes labels; SoftLabels are made from probabilities, so end the module in a softmax.
    name: how errors and the trail call it; result: the record's name in the case (default: the stage's name).

    A callable that is not an ``nn.Module`` is taken as one without gradient when ``axes`` is None, and the Chain
    names it when a gradient is asked through it.

    >>> from firstread.core.records import Image
    >>> wrap(torch.nn.Conv2d(1, 1, 3, padding=1), reads=Image, writes=Image, axes="yx", name="smooth").writes
    'smooth'
    """
    arguments = dict(reads) if isinstance(reads, Mapping) else {_default_name(reads): reads}
    called = name or getattr(module, "__name__", type(module).__name__).lower()
    differentiable = isinstance(module, nn.Module) or axes is not None
    stage = _Wrapped(module, arguments, writes, called, axes, names, differentiable)
    return stage.using(writes=result or called)


_LAYOUT = "btczyx"


def _fold(data: Tensor, axes: str) -> Tensor:
    """``[batch, time, channel, z, y, x]`` to ``[N, channel, *axes]``, the other axes folded into N."""
    rest = [a for a in "btzyx" if a not in axes]
    order = [_LAYOUT.index(a) for a in (*rest, "c", *axes)]
    return data.permute(order).flatten(0, len(rest) - 1)


def _unfold(data: Tensor, like: Tensor, axes: str, name: str) -> Tensor:
    """The inverse of ``_fold``, with whatever number of channels came back."""
    rest = [a for a in "btzyx" if a not in axes]
    sizes = [like.shape[_LAYOUT.index(a)] for a in rest]
    if data.ndim != 2 + len(axes) or data.shape[0] != int(torch.tensor(sizes).prod()):
        raise ChainError(f"data of shape {tuple(data.shape)} from stage {name!r}",
                         expected=f"[N = {int(torch.tensor(sizes).prod())}, channel, {', '.join(axes)}]",
                         remedy="return one output per input, batch first")
    order = (*rest, "c", *axes)
    return data.reshape(*sizes, *data.shape[1:]).permute([order.index(a) for a in _LAYOUT])
