"""Networks in a file of their own: TorchScript, and ONNX through onnxruntime (without a gradient)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from firstread.core.errors import FormatError, InputError, UnsupportedError
from firstread.zoo.foreign import ForeignModel, require_finite
from firstread.zoo.sidecar import beside, preparation_of, read_json


class OnnxNetwork(nn.Module):
    """An ONNX graph of one input and one output, run by onnxruntime on the CPU; no gradient passes.

    Its only state is the SHA-256 of the file.
    """

    def __init__(self, *, content: bytes, name: str) -> None:
        super().__init__()
        self.session = _session(content, name)
        self.register_buffer("digest", torch.tensor(list(hashlib.sha256(content).digest()), dtype=torch.uint8))

    def forward(self, batch: Tensor) -> Tensor:
        given = {self.session.get_inputs()[0].name: batch.detach().cpu().contiguous().numpy()}
        try:
            made = self.session.run(None, given)[0]
        except Exception as error:  # onnxruntime has an error class for each status, none public
            raise RuntimeError(str(error)) from error
        return torch.from_numpy(made).to(batch.device)


def read_network(path: Path, stated: Mapping[str, Any] | None = None) -> ForeignModel:
    """A ``.ts``, ``.pt`` or ``.onnx`` file and what is stated of it, or else stands in ``model.json`` beside it.

    Raises InputError where nothing is stated, FormatError for a damaged file, UnsupportedError for parameters without
    their network or where onnxruntime is missing.
    """
    if not path.is_file():
        raise InputError(f"nothing at {path.name}", expected="a .ts, .pt or .onnx file", remedy="check the path")
    about = beside(path) if stated is None else None
    said = read_json(about) if about is not None else stated or {}
    plan, names, activation = preparation_of(said, about.name if about is not None else "what was stated")
    onnx = path.suffix == ".onnx"
    network = OnnxNetwork(content=path.read_bytes(), name=path.name) if onnx else load_script(path)
    regions = tuple(range(1, len(names))) if activation == "sigmoid" else ()
    return ForeignModel("ONNX" if onnx else "TorchScript", (network,), names, plan, activation, regions, not onnx)


def load_script(path: Path) -> nn.Module:
    """A TorchScript file as a module in eval mode, on the CPU.

    Raises UnsupportedError for a file that holds parameters alone, FormatError for a damaged one.
    """
    try:
        network = torch.jit.load(str(path), map_location="cpu").eval()
    except (RuntimeError, ValueError, OSError) as error:
        if "constants.pkl" in str(error):
            raise UnsupportedError(f"{path.name}, which holds parameters without their network",
                                   expected="TorchScript, which holds both",
                                   remedy="save torch.jit.script(network) where the network is at hand") from error
        raise FormatError(f"{path.name}, a damaged or cut-off file", expected="a TorchScript file",
                          remedy="copy or export it again") from error
    return require_finite(network, path.name)


def _session(content: bytes, name: str) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise UnsupportedError(f"{name} without onnxruntime", expected="the extra 'onnx'",
                               remedy="pip install 'firstread[onnx]'") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has an error class for each status, none public
        raise FormatError(f"{name}, which onnxruntime cannot load", expected="a complete ONNX file",
                          remedy="export it again") from error
    if len(session.get_inputs()) != 1:
        raise UnsupportedError(f"{name}, a graph of {len(session.get_inputs())} inputs", expected="one input",
                               remedy="export the network with one tensor [batch, channel, …]")
    return session
