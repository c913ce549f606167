"""``wrap``: any PyTorch module, or any callable, as a Stage."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from firstread.core.errors import ChainError, GradientError
from firstread.core.records import HardLabels, Image, Labels, Record, SoftLabels
from firstread.core.stage import Argument, Stage, default_name


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


def refuse_gradient(name: str, output: Tensor, *inputs: Tensor) -> Tensor:
    """``output`` as it is; a gradient asked through it to ``inputs`` is a GradientError that names stage ``name``."""
    return _NoGradient.apply(name, output, *inputs)


class _Wrapped(Stage):
    """A module or callable as a stage; made by ``wrap``."""

    def __init__(self, module: Callable[..., Any], reads: Mapping[str, type[Record]], writes: type[Record], name: str,
                 axes: str | None, names: tuple[str, ...], differentiable: bool, stops: bool) -> None:
        super().__init__()
        self.module = module
        self.reads, self.kind, self.axes, self.names = dict(reads), writes, axes, names
        self.stage_name, self.differentiable, self.stops = name, differentiable, stops

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
        anchors = [t for r in inputs for t in r.tensors() if t.requires_grad]
        if self.differentiable and isinstance(self.module, nn.Module):
            anchors += [p for p in self.module.parameters() if p.requires_grad]
        passes = self.differentiable and any(t.requires_grad for t in record.tensors())
        if passes or self.stops or not anchors or not torch.is_grad_enabled():
            return record
        return record.map(lambda t: refuse_gradient(self.name, t, *anchors) if _can_have_gradient(t) else t)

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
         result: str | None = None, stops_gradient: bool = False) -> Stage:
    """Any PyTorch module, or any callable, as a Stage.

    axes: the axes that the module sees behind batch and channel: ``"yx"`` gives it ``[N, channel, y, x]`` (time and z
    folded into N), ``"zyx"`` gives ``[N, channel, z, y, x]``. Without it the callable gets the records themselves and
    returns a record (or a tensor of the six axes).
    names: class names when it writes labels; SoftLabels are made from probabilities, so end the module in a softmax.
    name: how errors and the trail call it; result: the record's name in the case (default: the stage's name).
    stops_gradient: it passes none, and that is meant (``torch.detach``).

    A callable that is not an ``nn.Module`` is taken as one without gradient when ``axes`` is None. A gradient asked
    through it, or through a module whose output turns out to have none (it rounds, detaches, leaves torch), is a
    GradientError that names the stage.

    >>> from firstread.core.records import Image
    >>> wrap(torch.nn.Conv2d(1, 1, 3, padding=1), reads=Image, writes=Image, axes="yx", name="smooth").writes
    'smooth'
    """
    arguments = dict(reads) if isinstance(reads, Mapping) else {default_name(reads): reads}
    called = name or getattr(module, "__name__", type(module).__name__).lower()
    differentiable = isinstance(module, nn.Module) or axes is not None
    stage = _Wrapped(module, arguments, writes, called, axes, names, differentiable, stops_gradient)
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
    if data.ndim != 2 + len(axes) or data.shape[0] != math.prod(sizes):
        raise ChainError(f"data of shape {tuple(data.shape)} from stage {name!r}",
                         expected=f"[N = {math.prod(sizes)}, channel, {', '.join(axes)}]",
                         remedy="return one output per input, batch first")
    order = (*rest, "c", *axes)
    return data.reshape(*sizes, *data.shape[1:]).permute([order.index(a) for a in _LAYOUT])
