"""A trained segmentation model from somewhere else, opened as a stage of ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from firstread.analyze.foreign import ForeignSegment
from firstread.analyze.segment import Segment
from firstread.analyze.trained import SegmentByPlan
from firstread.chains.trained import is_trained, open_trained, open_weight, segmenting_weights
from firstread.core.errors import InputError, SettingError
from firstread.nets.precision import InPrecision
from firstread.zoo.foreign import ForeignModel
from firstread.zoo.monai_bundle import is_bundle, read_bundle
from firstread.zoo.nnunet import is_nnunet, read_nnunet, refuse_part
from firstread.zoo.script import read_network
from firstread.zoo.store import names

KNOWN = ("a folder of `segment train`, a default weight by name or .safetensors, a trained nnU-Net v2 folder, a MONAI "
         "bundle folder, TorchScript (.ts, .pt) or ONNX (.onnx)")
NETWORKS = (".ts", ".pt", ".onnx")


def open_segmenter(path: str | Path, *, folds: Sequence[int | str] | None = None, members: bool = False,
                   mirror: bool = True, overlap: float | None = None, memory: int | None = None,
                   stated: Mapping[str, Any] | None = None, precision: torch.dtype | None = None
                   ) -> ForeignSegment | SegmentByPlan | Segment:
    """The stage ``Image -> SoftLabels`` of a model: probabilities of ``stage.classes`` on the image's own grid.

    path: a trained nnU-Net v2 folder, a MONAI bundle, a TorchScript or an ONNX file, a folder of ``firstread segment
    train``, or a default weight that segments, by name or by its file. folds: which of an nnU-Net's, all by
    default; members: one row of labels for each fold, as draws, in place of their mean; mirror: whether flipped copies
    are averaged, where the model was trained on such; overlap of windows: the model's own by default; memory: bytes
    that may be taken, of our own models alone (others' windows are fixed by how they were trained); stated: what
    ``model.json`` would say of a TorchScript or ONNX file (zoo/sidecar.py); precision: that the networks compute in
    (``torch.bfloat16``), their own by default.

    Nothing of the model's own code is run, TorchScript and ONNX graphs aside. Raises InputError and its kinds
    FormatError (damaged) and UnsupportedError, each with what to do.
    """
    stage = _opened(path, folds=folds, members=members, mirror=mirror, overlap=overlap, memory=memory, stated=stated)
    if precision is not None:
        if isinstance(stage, ForeignSegment) and not stage.differentiable:
            raise SettingError(f"{Path(path).name} in {precision}", expected="a model whose networks torch can round",
                               remedy="leave the precision out: an ONNX file computes as it was stored")
        stage.networks = nn.ModuleList(InPrecision(network, precision) for network in stage.networks)
    return stage


def _opened(path: str | Path, *, folds: Sequence[int | str] | None, members: bool, mirror: bool,
            overlap: float | None, memory: int | None, stated: Mapping[str, Any] | None
            ) -> ForeignSegment | SegmentByPlan | Segment:
    if Path(path).suffix == ".safetensors" or (not Path(path).exists() and str(path) in names()):
        weight = open_weight(path if Path(path).suffix == ".safetensors" else str(path), members=members)
        if isinstance(weight, SegmentByPlan):
            weight.memory = memory
        elif memory is not None:
            raise SettingError(f"a set memory for {path}, an ensemble of slices", expected="it for a model with a plan",
                               remedy="leave it out: it takes 32 slices at a time")
        return weight
    if is_trained(Path(path)):
        stage = open_trained(Path(path), members=members)
        stage.memory = memory
        return stage
    if memory is not None:
        raise SettingError(f"a set memory for {Path(path).name}, another program's model", expected="it for a model of "
                           "`segment train` or a default weight", remedy="leave it out: its windows are as large as it "
                           "was trained with")
    model = read_model(Path(path), folds=folds, stated=stated).with_windows(overlap=overlap, mirror=mirror)
    return ForeignSegment(networks=model.networks, names=model.names, preparation=model.preparation,
                          activation=model.activation, regions=model.regions, members=members,
                          differentiable=model.differentiable)


def read_model(path: Path, *, folds: Sequence[int | str] | None = None,
               stated: Mapping[str, Any] | None = None) -> ForeignModel:
    """What kind of model it is, by its files, and its parts."""
    if path.suffix in NETWORKS:
        return read_network(path, stated)
    if not path.exists():
        raise InputError(f"nothing at {path.name}", expected=KNOWN, remedy="check the path; the default weights that "
                         f"segment are {', '.join(segmenting_weights())}")
    if is_nnunet(path):
        return read_nnunet(path, folds)
    if is_bundle(path):
        return read_bundle(path)
    refuse_part(path)
    content = sorted(path.iterdir()) if path.is_dir() else []
    found = [file for file in content if file.suffix in NETWORKS]
    if len(found) == 1:
        return read_network(found[0], stated)
    inside = [folder.name for folder in content if is_nnunet(folder) or is_bundle(folder)]
    raise InputError(f"{path.name}, which is no model that is known", expected=KNOWN,
                     remedy=f"give one of the folders in it: {', '.join(inside)}" if inside else "check the path")
