"""One short loop for every recipe; a run that is killed and started again ends at the same weights."""

from __future__ import annotations

import math
import os
import pickle
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from firstread.core.errors import FormatError, SettingError, SignalError


def learning_rate_at(step: int, *, steps: int, peak: float, warmup: int, floor: float = 0.01) -> float:
    """Linear warm-up to ``peak``, then half a cosine down to ``floor * peak`` (Loshchilov 2017).

    >>> learning_rate_at(0, steps=100, peak=1.0, warmup=10), learning_rate_at(10, steps=100, peak=1.0, warmup=10)
    (0.1, 1.0)
    """
    if step < warmup:
        return peak * (step + 1) / warmup
    done = (step - warmup) / max(1, steps - warmup)
    return peak * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, done))))


def fit(model: nn.Module, batches: Callable[[int], Any], loss: Callable[[nn.Module, Any], Tensor], *, steps: int,
        checkpoint: Path, learning_rate: float = 1e-3, warmup: int = 100, weight_decay: float = 1e-4,
        averaging: float = 0.998, clip: float = 1.0, every: int = 200, seed: int = 0,
        rates: Mapping[str, float] | None = None, accumulates: bool = False,
        stop: Callable[[int], bool] | None = None,
        report: Callable[[int, float], None] | None = None) -> nn.Module:
    """Train ``model`` in place and return it with averaged weights.

    batches: step number to batch; it must depend on the number alone, so that a resumed run sees the same batches.
    loss: model and batch to a scalar.
    checkpoint: written whole every ``every`` steps, at the end and on Ctrl-C; where it exists, training goes on there.
    averaging: decay of the exponential moving average of the weights, which is what is returned; zero for none.
    clip: largest norm of the gradient, in each group of parameters of one learning rate.
    rates: beginning of a parameter's name to the factor of its learning rate; others have the factor one.
    accumulates: ``loss`` adds its gradient to the parameters' itself (as :func:`~firstread.learn.joint.accumulate`).
    stop: asked after each step, ends the run early at a checkpoint.
    report: called with step and loss after each step, besides the progress bar.

    AdamW with a cosine learning rate. Modules whose parameters are all frozen stay in eval mode. Raises SignalError
    when the loss is no number, FormatError for a checkpoint that is damaged, of other settings or of another model.
    """
    if steps < 1 or not 0 <= averaging < 1:
        raise SettingError(f"{steps} steps, averaging {averaging}", expected="one step or more, averaging in [0, 1)",
                           remedy="correct the settings")
    settings = {"steps": steps, "learning_rate": learning_rate, "warmup": warmup, "weight_decay": weight_decay,
                "averaging": averaging, "clip": clip, "seed": seed, **({"rates": dict(rates)} if rates else {})}
    groups = parameter_groups(model, rates or {})
    optimizer = torch.optim.AdamW([{"params": chosen} for _, chosen in groups], lr=learning_rate,
                                  weight_decay=weight_decay)
    average = {name: value.detach().clone() for name, value in model.state_dict().items()}
    first = _resume(checkpoint, settings, model, optimizer, average) if checkpoint.exists() else 0
    train_mode(model)
    with _progress() as progress, _interruptible() as interrupted:
        bar = progress.add_task("training", total=steps, completed=first, loss="–")
        last = first if first and stop is not None and stop(first) else steps  # a run that had ended stays ended
        for step in range(first, last):
            for (factor, _), group in zip(groups, optimizer.param_groups, strict=True):
                group["lr"] = factor * learning_rate_at(step, steps=steps, peak=learning_rate, warmup=warmup)
            optimizer.zero_grad(set_to_none=True)
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed((seed << 32) + step)
                value = loss(model, batches(step))
            if not torch.isfinite(value):
                raise SignalError(f"a loss of {value.item()} at step {step}", expected="a finite number",
                                  remedy="lower the learning rate or look at this batch")
            if not accumulates:
                value.backward()
            for _, chosen in groups:
                nn.utils.clip_grad_norm_(chosen, clip)
            optimizer.step()
            _average(average, model, min(averaging, (step + 1) / (step + 10)))
            done = step + 1
            progress.update(bar, completed=done, loss=f"{value.item():.3f}")
            if report is not None:
                report(done, value.item())
            ended = done == steps or (stop is not None and stop(done))
            if ended or done % every == 0 or interrupted:
                _save(checkpoint, {"step": done, "settings": settings, "model": model.state_dict(),
                                   "optimizer": optimizer.state_dict(), "average": average})
            if interrupted:
                progress.console.print(f"Stopped after step {done}; the same command goes on from there.")
                raise KeyboardInterrupt
            if ended:
                break
    model.load_state_dict(average)
    return model.eval()


def parameter_groups(model: nn.Module, rates: Mapping[str, float]) -> list[tuple[float, list[Tensor]]]:
    """Parameters by the factor of their learning rate; of several beginnings that fit a name the longest counts.

    >>> [(rate, len(group)) for rate, group in parameter_groups(nn.Linear(2, 1), {"bias": 10.0})]
    [(1.0, 1), (10.0, 1)]
    """
    found: dict[float, list[Tensor]] = {}
    unused = set(rates)
    for name, parameter in model.named_parameters():
        fitting = [prefix for prefix in rates if name.startswith(prefix)]
        unused -= set(fitting)
        found.setdefault(float(rates[max(fitting, key=len)]) if fitting else 1.0, []).append(parameter)
    if unused or min(found, default=0.0) < 0:
        raise SettingError(f"learning rates for {sorted(unused) or sorted(found)}",
                           expected="beginnings of parameter names, and factors of zero or more",
                           remedy="correct `rates`")
    return sorted(found.items(), key=lambda group: group[0])


def train_mode(model: nn.Module) -> None:
    """Training mode, but for modules that hold frozen parameters only: no dropout, no running statistics there."""
    model.train()
    for module in model.modules():
        parameters = list(module.parameters())
        if parameters and not any(p.requires_grad for p in parameters):
            module.eval()


def _average(average: dict[str, Tensor], model: nn.Module, decay: float) -> None:
    """``a <- decay a + (1 - decay) w`` for every weight; whole numbers are copied."""
    for name, value in model.state_dict().items():
        if value.is_floating_point():
            average[name].lerp_(value.detach(), 1 - decay)
        else:
            average[name].copy_(value)


def _resume(checkpoint: Path, settings: dict[str, Any], model: nn.Module, optimizer: torch.optim.Optimizer,
            average: dict[str, Tensor]) -> int:
    try:
        saved = torch.load(checkpoint, map_location="cpu", weights_only=True)
        before, step = saved["settings"], int(saved["step"])
    except PermissionError as error:
        raise FormatError(f"{checkpoint}, which cannot be read ({error.strerror})", expected="a checkpoint that one "
                          "may read", remedy="correct its permissions") from error
    except (RuntimeError, KeyError, TypeError, EOFError, ValueError, OSError, pickle.UnpicklingError) as error:
        raise FormatError(f"{checkpoint}, a damaged checkpoint", expected="what an interrupted training left, whole",
                          remedy="remove that file and run the same command: what it trained (in a cross-validation "
                          "this one fold) begins anew at its first step") from error
    other = {name: before.get(name) for name in settings if before.get(name) != settings[name]}
    if other:
        wanted = {name: settings[name] for name in other}
        raise FormatError(f"a checkpoint made with {other}", expected=f"{wanted}",
                          remedy=f"use the same settings, or remove {checkpoint} to start anew")
    try:
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        for name, value in saved["average"].items():
            average[name].copy_(value)
    except (RuntimeError, KeyError, ValueError) as error:
        raise FormatError(f"{checkpoint}, a checkpoint of another model ({type(error).__name__})",
                          expected="one written by this recipe", remedy="remove that file to start anew") from error
    return step


def _save(checkpoint: Path, state: dict[str, Any]) -> None:
    """Whole or not at all: written beside, then renamed."""
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    beside = checkpoint.with_name(checkpoint.name + ".part")
    torch.save(state, beside)
    os.replace(beside, checkpoint)


@contextmanager
def _interruptible() -> Iterator[list[int]]:
    """Ctrl-C waits for the end of a step: it is put into the list; a second one interrupts at once.

    Only the main thread can receive signals: in others Ctrl-C does what it did.
    """
    came: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield came
        return
    before = signal.getsignal(signal.SIGINT)

    def later(number: int, _: object) -> None:
        came.append(number)
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, later)
    try:
        yield came
    finally:
        signal.signal(signal.SIGINT, before)


def _progress():
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    return Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
                    TextColumn("loss {task.fields[loss]}"), TimeRemainingColumn())
