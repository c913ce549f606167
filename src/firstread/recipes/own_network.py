"""A segmentation network of one's own in the studies of joint training, in place of the default one."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch
from torch import nn

from firstread.analyze.classes import MapClasses, heart_sources
from firstread.analyze.segment import NAMES, Segment
from firstread.chains.models import open_segmenter
from firstread.core.errors import InputError, SettingError
from firstread.core.stage import Stage


def open_network(text: str) -> nn.Module:
    """What ``text`` names: ``FILE.py:FUNCTION``, or a trained model as :func:`~firstread.chains.models.open_segmenter`
    opens it (nnU-Net, MONAI bundle, TorchScript, ``firstread segment train``).

    The function takes nothing and returns a module ``[rows, 3 slices, y, x] -> [rows, 4 classes, y, x]``: logits of
    :data:`~firstread.analyze.segment.NAMES` on pixels of 1.5 mm, the slice between its neighbours, percentiles scaled
    to 0 and 1. It is called under one torch seed, so that it begins the same every time. The file is run: give none
    that you do not trust. Raises InputError for a file or function that is not there, fails or returns something else,
    SettingError for a model without gradient, such as ONNX.
    """
    if ".py:" not in text:
        stage = open_segmenter(text, mirror=False)
        if not getattr(stage, "differentiable", True):
            raise SettingError(f"the model {Path(text).name}, which passes no gradient", expected="one that torch can "
                               "train", remedy="give its checkpoint or TorchScript")
        return stage
    file, called = text.rsplit(":", 1)
    spec = importlib.util.spec_from_file_location("own_network", file)
    if spec is None or spec.loader is None or not Path(file).is_file():
        raise InputError(f"no file {file}", expected="FILE.py:FUNCTION", remedy="check the path")
    module = importlib.util.module_from_spec(spec)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            spec.loader.exec_module(module)
            made = getattr(module, called)() if callable(getattr(module, called, None)) else None
    except Exception as error:  # somebody else's code: whatever it raises
        raise InputError(f"{Path(file).name}, which fails with {type(error).__name__}: {error}",
                         expected=f"a file that runs and its function {called}", remedy="correct it") from error
    if not isinstance(made, nn.Module):
        raise InputError(f"{called} of {Path(file).name}, which gives no torch module",
                         expected="a function without arguments that returns one", remedy="correct FILE.py:FUNCTION")
    return made


def check_network(network: nn.Module, *, patch: int) -> None:
    """Raises InputError for a plain network that does not give the heart's classes on its input's pixels."""
    if isinstance(network, Stage):
        heart_sources(network.classes)
        return
    expected = (2, len(NAMES), patch, patch)
    try:
        with torch.no_grad():
            shape = tuple(network(torch.zeros(2, 3, patch, patch)).shape)
    except Exception as error:  # somebody else's code: whatever it raises
        raise InputError(f"a network that fails on {(2, 3, patch, patch)} with {type(error).__name__}: {error}",
                         expected=f"logits of shape {expected}", remedy="correct the network or --patch") from error
    if shape != expected:
        raise InputError(f"a network that makes {shape} of {(2, 3, patch, patch)}", expected=f"logits of shape "
                         f"{expected}: {', '.join(NAMES)}", remedy="correct the network")


def segmentation_of(network: nn.Module, *, sees: str, patch: int) -> tuple[Stage, ...]:
    """Image ``sees`` to ``labels.members`` of the heart's classes, by a plain network or an opened model.

    patch: of a plain network. Raises InputError for a model whose class names are not the heart's.
    """
    if not isinstance(network, Stage):
        return (Segment(networks=[network], patch=patch, search=max(patch, 96)).using(reads={"image": sees}),)
    mapped = MapClasses(names=NAMES, sources=heart_sources(network.classes))
    return (network.using(reads={"image": sees}, writes="labels.model"),
            mapped.using(reads={"labels": "labels.model"}, writes="labels.members"))
