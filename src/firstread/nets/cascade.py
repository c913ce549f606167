"""Deep cascade of convolutional networks for dynamic MRI (Schlemper et al. 2017, 2018): residual block, data
consistency, residual block, data consistency …

The formulas first: data consistency in closed form for one coil and as a proximal step for many, and data sharing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Complex, Num
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from firstread.core.errors import SettingError
from firstread.nets.residual import Kernel, ResidualBlock
from firstread.ops.encoding import CartesianEncoding, at_slice, combine, measured_part
from firstread.ops.fourier import fft, ifft
from firstread.ops.solve import conjugate_gradient
from firstread.ops.variation import minimize_total_variation


def consistent_kspace(predicted: Complex[Tensor, "*axes"], measured: Complex[Tensor, "*axes"], mask: Num[Tensor, "..."],
                      weight: Num[Tensor, ""] | None = None) -> Complex[Tensor, "*axes"]:
    """Closed form for one coil: ``(μ k + y) / (μ + 1)`` where measured, ``k`` elsewhere.

    weight: μ, the trust in the prediction relative to the measurement; None for noiseless data, μ = 0.

    >>> k, y, m = torch.zeros(2) + 0j, torch.ones(2) + 0j, torch.tensor([1.0, 0.0])
    >>> consistent_kspace(k, y, m, torch.tensor(1.0)).real.tolist()
    [0.5, 0.0]
    """
    change = measured_part(measured, mask) - mask * predicted
    return predicted + (change if weight is None else 1 / (1 + weight) * change)


def data_consistency(image: Complex[Tensor, "batch time 1 z y x"], measured: Complex[Tensor, "batch time coil z y x"],
                     encoding: CartesianEncoding, weight: Num[Tensor, ""] | None = None, *, steps: int = 4,
                     rhs: Complex[Tensor, "batch time 1 z y x"] | None = None) -> Complex[Tensor, "batch time 1 z y x"]:
    """The proximal step ``argmin_x ‖E x - y‖² + μ ‖x - z‖²`` about ``image`` z.

    One coil: in closed form. Many: ``steps`` of conjugate gradients on ``(EᴴE + μ) x = Eᴴy + μ z`` that begin at z.
    rhs: ``Eᴴ y`` where it is at hand. Many coils need a weight μ above zero.
    """
    if encoding.sensitivities is None:
        axes = encoding.fourier_axes
        return ifft(consistent_kspace(fft(image, axes), measured, encoding.mask, weight), axes)
    if weight is None:
        raise SettingError("noiseless data consistency with many coils", expected="a weight above zero",
                           remedy="give the cascade a `consistency`")
    rhs = encoding.adjoint(measured) if rhs is None else rhs
    return conjugate_gradient(lambda x: encoding.gram(x) + weight * x, rhs + weight * image, start=image,
                              iterations=steps, systems=3)


def share_data(measured: Complex[Tensor, "batch time coil z y x"], mask: Num[Tensor, "#batch mt 1 mz my mx"],
               distance: int) -> Complex[Tensor, "batch time coil z y x"]:
    """Data sharing: samples not measured in a frame become the mean of those measured within ±``distance`` frames.

    Circular in time, as the heart beats; what no neighbour measured stays zero.
    """
    frames = measured.shape[1]
    mask = mask.expand(-1, frames, *[-1] * 4)
    if 2 * distance + 1 >= frames:
        total, count = measured.sum(dim=1, keepdim=True), mask.sum(dim=1, keepdim=True)
        return measured + (1 - mask) / count.clamp_min(1) * total
    values, masks = measured.split(1, dim=1), mask.split(1, dim=1)
    made = []
    for frame in range(frames):  # one by one: what is at work stays in cache
        near = [(frame + shift) % frames for shift in range(-distance, distance + 1)]
        total, count = sum(values[n] for n in near), sum(masks[n] for n in near)
        made.append(values[frame] + (1 - masks[frame]) / count.clamp_min(1) * total)
    return torch.cat(made, dim=1)


def share_frames(image: Complex[Tensor, "batch time 1 z y x"], mask: Num[Tensor, "#batch mt 1 mz my mx"], distance: int,
                 axes: Sequence[str] = ("y", "x")) -> Complex[Tensor, "batch time 1 z y x"]:
    """Data sharing of an image between blocks: ``F⁻¹ (M k_t + (1 - M) mean_{|s - t| ≤ d} k_s)`` with ``k = F x``.

    By now every sample has a value, so the mean is over all ``2 d + 1`` frames; circular in time (Schlemper 2018).

    >>> image = torch.ones(1, 3, 1, 1, 4, 4, dtype=torch.complex64)
    >>> torch.allclose(share_frames(image, torch.zeros(1, 1, 1, 1, 4, 1), 1), image, atol=1e-6)
    True
    """
    kspace = fft(image, axes)
    mean = sum(kspace.roll(s, dims=1) for s in range(-distance, distance + 1)) / (2 * distance + 1)
    return ifft(mask * kspace + (1 - mask) * mean, axes)


class DeepCascade(nn.Module):
    """D``depth``-C``cascades``: image and measurements in, reconstructed image out.

    cascades, depth, width: blocks, convolutions per block, channels between them.
    kernel: how a block sees time (``ResidualBlock``).
    sharing: frame distances of data sharing; each gives every block one more image.
    resharing: blocks after the first share the frames of the image before them, as published; else every block sees the
        sharing of the measurements.
    consistency: first value of the trained weight μ of every data-consistency step; None for noiseless data.
    steps: of conjugate gradients per data-consistency step with many coils.
    variation: where the cascade starts: after ``iterations`` of least squares with this weight of temporal total
        variation (images of brightness 1); None starts at the zero-filled image, as published.
    steady: first value of the trained share that is kept of each correction's mean over time, for what does not move is
        already well known from all frames together; None keeps corrections whole.

    >>> net = DeepCascade(cascades=1, depth=2, width=4)
    >>> image = torch.ones(1, 2, 1, 1, 8, 8, dtype=torch.complex64)
    >>> encoding = CartesianEncoding(mask=torch.ones(1, 1, 1, 1, 8, 1))
    >>> torch.allclose(net(encoding(image), encoding), image, atol=1e-5)
    True
    """

    def __init__(self, *, cascades: int = 5, depth: int = 5, width: int = 64, kernel: Kernel = "yx",
                 sharing: Sequence[int] = (), consistency: float | None = None, steps: int = 4,
                 variation: float | None = None, iterations: int = 25, steady: float | None = None,
                 resharing: bool = False):
        super().__init__()
        if min(cascades, width, steps) < 1 or depth < 2 or min(sharing, default=1) < 1:
            raise SettingError(f"{cascades} cascades of depth {depth}, width {width}, {steps} steps, sharing {sharing}",
                               expected="one or more of each, depth 2 or more", remedy="correct the numbers")
        self.cascades, self.depth, self.width, self.kernel = cascades, depth, width, kernel
        self.sharing, self.consistency, self.steps = tuple(sharing), consistency, steps
        self.variation, self.iterations, self.steady = variation, iterations, steady
        self.resharing = resharing
        channels = 2 * (1 + len(self.sharing))
        self.blocks = nn.ModuleList(
            ResidualBlock(channels=channels, depth=depth, width=width, kernel=kernel) for _ in range(cascades))
        self.log_weights = None if consistency is None else nn.Parameter(
            torch.full((cascades,), float(torch.tensor(consistency).log())))
        self.shares = None if steady is None else nn.Parameter(torch.full((cascades,), float(steady)))

    @classmethod
    def from_weight(cls, settings: Mapping[str, Any], state: Mapping[str, Tensor]) -> DeepCascade:
        """The network of a weight file: its card's ``network`` and its parameters."""
        net = cls(cascades=int(settings["cascades"]), depth=int(settings["depth"]), width=int(settings["width"]),
                  kernel=settings["kernel"], sharing=tuple(settings["sharing"]), consistency=settings["consistency"],
                  steps=int(settings["steps"]), variation=settings["variation"], iterations=int(settings["iterations"]),
                  steady=settings["steady"], resharing=bool(settings.get("resharing", False)))
        net.load_state_dict(dict(state))
        return net.eval()

    def settings(self) -> dict[str, Any]:
        """What ``from_weight`` needs besides the parameters."""
        return {"cascades": self.cascades, "depth": self.depth, "width": self.width, "kernel": self.kernel,
                "sharing": list(self.sharing), "consistency": self.consistency, "steps": self.steps,
                "variation": self.variation, "iterations": self.iterations, "steady": self.steady,
                "resharing": self.resharing}

    def forward(self, measured: Complex[Tensor, "batch time coil z y x"], encoding: CartesianEncoding, *,
                recompute: bool = False) -> Complex[Tensor, "batch time 1 z y x"]:
        """The image, in the units of the measurements.

        Slices that encoding does not couple go one after the other, so that what is at work stays small. recompute: the
        start and every block keep nothing for the gradient but run once more when it comes (the same gradient, less
        memory).
        """
        if encoding.sets > 1:
            raise SettingError(f"{encoding.sets} sets of coil maps for a deep cascade", expected="one image per frame",
                               remedy="estimate the maps with sets=1")
        call = _call_again if recompute and torch.is_grad_enabled() else _call
        if "z" in encoding.fourier_axes or measured.shape[3] == 1:
            return self._reconstruct(measured, encoding, call)
        return torch.cat([self._reconstruct(at_slice(measured, z), encoding.at_slice(z), call)
                          for z in range(measured.shape[3])], dim=3)

    def _reconstruct(self, measured: Tensor, encoding: CartesianEncoding, call: Callable[..., Tensor]) -> Tensor:
        rhs = encoding.adjoint(measured)
        shared = [combine(share_data(measured, encoding.mask, d), encoding) for d in self.sharing]
        image = rhs if self.variation is None else call(self._start, rhs, encoding)
        for number in range(self.cascades):
            image = call(self._step, number, image, shared, measured, encoding, rhs)
        return image

    def _start(self, rhs: Tensor, encoding: CartesianEncoding) -> Tensor:
        return minimize_total_variation(encoding.gram, rhs, torch.as_tensor(self.variation, device=rhs.device),
                                        bound=encoding.bound(), iterations=self.iterations)

    def _step(self, number: int, image: Tensor, shared: list[Tensor], measured: Tensor, encoding: CartesianEncoding,
              rhs: Tensor) -> Tensor:
        """One block and its data consistency."""
        if self.resharing and number > 0:
            shared = [share_frames(image, encoding.mask, d, encoding.fourier_axes) for d in self.sharing]
        correction = over_cines(self.blocks[number], [image, *shared])
        if self.shares is not None and correction.shape[1] > 1:
            correction = correction - (1 - self.shares[number]) * correction.mean(dim=1, keepdim=True)
        weight = None if self.log_weights is None else self.log_weights[number].exp()
        return data_consistency(image + correction, measured, encoding, weight, steps=self.steps, rhs=rhs)


def _call(step: Callable[..., Tensor], *given: Any) -> Tensor:
    return step(*given)


def _call_again(step: Callable[..., Tensor], *given: Any) -> Tensor:
    return checkpoint(step, *given, use_reentrant=False)


def over_cines(block: nn.Module, images: list[Tensor]) -> Complex[Tensor, "batch time 1 z y x"]:
    """``block`` on each cine ``[time, channel, y, x]``, one (batch, z) after the other: memory stays bounded."""
    batch, _, _, slices = images[0].shape[:4]
    channels = torch.cat([torch.view_as_real(image[:, :, 0]).movedim(-1, 2) for image in images], dim=2)
    rows = []
    for b in range(batch):
        cines = [block(channels[b, :, :, z]) for z in range(slices)]
        rows.append(torch.stack(cines, dim=2))
    return torch.view_as_complex(torch.stack(rows).movedim(2, -1).contiguous())[:, :, None]


def d5_c10_s() -> DeepCascade:
    """The untrained D5-C10(S) of Schlemper et al. 2018: ten blocks of 3 x 3 x 3 kernels, data sharing before each.

    Frame distances 1 to 4 (distance 0, which the authors list too, is the image itself); 3.5 million parameters. Time
    is circular in the convolutions too.

    >>> sum(p.numel() for p in d5_c10_s().parameters())
    3527700
    """
    return DeepCascade(cascades=10, depth=5, width=64, kernel="tyx", sharing=(1, 2, 3, 4), resharing=True)


def d5_c5_from_arrays(arrays: Mapping[str, object]) -> DeepCascade:
    """The published D5-C5 network from its 50 arrays ``arr_0 … arr_49`` (weight, bias of each layer in turn).

    Weights are used as they are stored: as cross-correlation filters. Raises SettingError where shapes do not fit.
    """
    net = DeepCascade()
    names = [name for block in range(net.cascades) for layer in range(net.depth)
             for name in (f"blocks.{block}.layers.{layer}.weight", f"blocks.{block}.layers.{layer}.bias")]
    state = {name: torch.as_tensor(arrays[f"arr_{number}"]) for number, name in enumerate(names)}
    wrong = [name for name, value in state.items() if net.state_dict()[name].shape != value.shape]
    if wrong:
        raise SettingError(f"an array of shape {tuple(state[wrong[0]].shape)} for {wrong[0]}",
                           expected=str(tuple(net.state_dict()[wrong[0]].shape)), remedy="give the D5-C5 arrays")
    net.load_state_dict(state)
    return net.eval()
