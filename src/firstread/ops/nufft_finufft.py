"""The non-uniform transform by FINUFFT (extra ``nufft``), in the place of ``NufftPlan``.

Barnett, Magland and af Klinteberg, SIAM J. Sci. Comput. 41:C479 (2019). Gradients are those of ``ops.nufft``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Complex, Float
from torch import Tensor

from firstread.core.errors import UnsupportedError
from firstread.ops.nufft_plan import check_trajectory
from firstread.ops.nufft_window import check_tolerance


class FinufftPlan:
    """As ``NufftPlan``, on the CPU, by FINUFFT: nothing is stored for each sample, so volumes fit.

    >>> FinufftPlan(torch.zeros(2, 1), (8, 8)).forward(torch.ones(8, 8) + 0j).abs().round().item()
    8.0
    """

    def __init__(self, trajectory: Float[Tensor, "axis sample"], shape: Sequence[int], *, tolerance: float = 1e-3,
                 dtype: torch.dtype = torch.float32):
        check_trajectory(trajectory, shape)
        check_tolerance(tolerance, dtype)
        if trajectory.device.type != "cpu":
            raise UnsupportedError(f"a trajectory on {trajectory.device} for FINUFFT", expected="one on the CPU",
                                   remedy="use NufftPlan there")
        self.shape, self.samples, self.dtype, self.tolerance = tuple(shape), trajectory.shape[1], dtype, tolerance
        kind = np.float32 if dtype == torch.float32 else np.float64
        self._points = [np.ascontiguousarray((k.detach().double() * (2 * math.pi / n)).numpy().astype(kind))
                        for k, n in zip(trajectory, self.shape, strict=True)]
        self._scale = math.prod(self.shape) ** -0.5
        self._plans: dict[tuple[int, int, int], Any] = {}

    def forward(self, image: Complex[Tensor, "..."]) -> Complex[Tensor, "... sample"]:
        """``[*lead, *shape]`` to ``[*lead, sample]``."""
        lead = image.shape[: image.ndim - len(self.shape)]
        return self._run(2, -1, image.reshape(-1, *self.shape), (self.samples,)).reshape(*lead, self.samples)

    def adjoint(self, samples: Complex[Tensor, "... sample"]) -> Complex[Tensor, "..."]:
        """``[*lead, sample]`` to ``[*lead, *shape]``."""
        lead = samples.shape[:-1]
        return self._run(1, 1, samples.reshape(-1, self.samples), self.shape).reshape(*lead, *self.shape)

    def _run(self, kind: int, sign: int, data: Tensor, shape: tuple[int, ...]) -> Tensor:
        values = data.detach().resolve_conj().contiguous().numpy()
        made = self._plan(kind, sign, len(values)).execute(values if len(values) > 1 else values[0])
        return torch.from_numpy(made).reshape(len(values), *shape) * self._scale

    def _plan(self, kind: int, sign: int, count: int) -> Any:
        key = (kind, sign, count)
        if key not in self._plans:
            try:
                import finufft
            except ModuleNotFoundError as error:
                raise UnsupportedError("no FINUFFT in this installation", expected="the package finufft",
                                       remedy="install firstread[nufft], or use NufftPlan") from error
            name = "complex64" if self.dtype == torch.float32 else "complex128"
            plan = finufft.Plan(kind, self.shape, count, self.tolerance, sign, dtype=name,
                                nthreads=torch.get_num_threads())
            plan.setpts(*self._points)
            self._plans[key] = plan
        return self._plans[key]
