"""The heart chain without images: undersampled k-space to labels and cardiac phenotypes.

    kspace ─▶ labels.members ─▶ labels ─▶ phenotypes
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from firstread.analyze.consensus import Consensus
from firstread.analyze.direct import SegmentCine, SegmentFromKSpace
from firstread.chains.heart import Phase, measurement
from firstread.core.errors import FormatError
from firstread.core.stage import Chain
from firstread.measure.cardiac import CardiacFunction
from firstread.nets.cine import CineUNet
from firstread.nets.latent import LatentInterpolation, MaskAutoencoder
from firstread.zoo.store import Weight, load


def direct_chain(segment: SegmentFromKSpace, *, phase: Phase | None = None) -> Chain:
    """K-space to phenotypes for reading: labels are hardened and cleaned up as in the chain with images.

    >>> stage = SegmentFromKSpace(networks=[CineUNet(channels_in=2, channels_out=4, widths=(4, 8))])
    >>> print(direct_chain(stage).describe())
    segment_from_kspace(kspace: KSpace) -> labels.members
    consensus(labels: SoftLabels) -> labels
    cardiac_function(labels: Labels) -> phenotypes
    """
    return Chain(segment.using(reads={"kspace": "kspace"}), Consensus().using(reads={"labels": "labels.members"}),
                 *measurement(phase)).eval()


def direct_endpoint(segment: SegmentFromKSpace | SegmentCine, *, softness: float = 0.0) -> Chain:
    """K-space (or an image) to phenotypes with a gradient: volumes are sums of probabilities.

    softness: of end-systole, above zero for training (:class:`~firstread.measure.cardiac.CardiacFunction`).
    """
    return Chain(segment, CardiacFunction(softness=softness, warn=False).using(reads={"labels": "labels.members"}))


def network_of(about: Mapping[str, Any]) -> nn.Module:
    """An untrained network from the ``network`` of a card: ``kind`` cine or latent, and its sizes.

    Raises FormatError for another card.
    """
    try:
        widths, channels_in, classes = tuple(about["widths"]), int(about["channels_in"]), int(about["classes"])
        if about["kind"] == "cine":
            return CineUNet(channels_in=channels_in, channels_out=classes, widths=widths)
        if about["kind"] == "latent":
            masks = MaskAutoencoder(classes=classes, size=tuple(about["field"]), code=int(about["code"]),
                                    widths=tuple(about["mask_widths"]))
            return LatentInterpolation(autoencoder=masks, channels_in=channels_in, widths=widths)
    except (KeyError, TypeError, ValueError) as error:
        raise FormatError(f"a card that does not describe its network ({error!r})",
                          expected="kind, widths, channels_in, classes, field, code, mask_widths",
                          remedy="train the weight again") from error
    raise FormatError(f"a network of kind {about['kind']!r}", expected="'cine' or 'latent'",
                      remedy="give a weight of the recipe direct-from-kspace")


def stage_of(weight: str | Path | Weight) -> SegmentFromKSpace | SegmentCine:
    """The stage of a weight of the recipe ``direct-from-kspace``: a file or a default weight's name.

    Raises FormatError for weights of other networks.
    """
    found = weight if isinstance(weight, Weight) else load(str(weight))
    about = found.card.get("network", {})
    network = network_of(about)
    try:
        network.load_state_dict(found.state)
    except RuntimeError as error:
        raise FormatError(f"weight {found.name!r} ({str(error).splitlines()[0]})", remedy="check the file",
                          expected="the network that its card describes") from error
    sizes = {"spacing_mm": float(about["spacing_mm"]), "field": tuple(about["field"])}
    if about["reads"] == "image":
        return SegmentCine(networks=[network.eval()], **sizes)
    return SegmentFromKSpace(networks=[network.eval()], distances=tuple(about["distances"]), **sizes)
