"""A network from its plan."""

from __future__ import annotations

from torch import nn

from firstread.core.errors import SettingError
from firstread.nets.plan import Plan
from firstread.nets.resunet import ResUNet
from firstread.nets.unet import UNet


def build_network(plan: Plan, *, outputs: int | None = None) -> nn.Module:
    """An untrained network: ``[batch, plan.channels, *patch]`` to logits ``[batch, classes, *patch]``.

    outputs: channels at its end instead of one for each class. Raises SettingError where the plan makes none.
    """
    chosen, out = plan.network, outputs or len(plan.classes)
    if chosen.kind == "resunet":
        return ResUNet(channels_in=plan.channels, channels_out=out, widths=chosen.widths, strides=chosen.strides,
                       blocks=chosen.blocks)
    if chosen.kind == "unet":
        return UNet(channels_in=plan.channels, channels_out=out, widths=chosen.widths, dims=plan.dims)
    if chosen.kind == "attention":
        from firstread.nets.attention import AttentionUNet

        return AttentionUNet(channels_in=plan.channels, channels_out=out, widths=chosen.widths, dims=plan.dims)
    if chosen.kind == "fcn":
        from firstread.nets.fcn import FCN

        return FCN(channels_in=plan.channels, channels_out=out, widths=chosen.widths, dims=plan.dims)
    return _monai(plan, out)


def _monai(plan: Plan, out: int) -> nn.Module:
    try:
        from monai.networks import nets
    except ImportError as error:
        raise SettingError("a MONAI network without MONAI", expected="the package monai",
                           remedy="install firstread[monai]") from error
    kind = getattr(nets, plan.network.name, None)
    if kind is None:
        raise SettingError(f"no network {plan.network.name!r} in monai.networks.nets", expected="the name of a class "
                           "there, such as UNet", remedy="correct `network.name`")
    try:
        return kind(spatial_dims=plan.dims, in_channels=plan.channels, out_channels=out, **plan.network.arguments)
    except (TypeError, ValueError) as error:
        raise SettingError(f"arguments {plan.network.arguments} of {plan.network.name} ({error})",
                           expected="what its constructor takes", remedy="correct `network.arguments`") from error
