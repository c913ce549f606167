"""Fingerprints of cases, so that what trained a network is not taken to calibrate or to test it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import torch
from torch import Tensor

from firstread.core.errors import SettingError
from firstread.core.records import Image, KSpace


def fingerprint(data: Tensor) -> str:
    """The first 16 hex digits of the SHA-256 over shape and values (as 32-bit floats, so that the type does not count).

    Equal for exact copies alone: a case that was resampled or cut differently has another fingerprint.

    >>> fingerprint(torch.ones(2, 3)) == fingerprint(torch.ones(2, 3).double()) != fingerprint(torch.ones(6))
    True
    """
    plain = torch.view_as_real(data.detach().cfloat()) if data.is_complex() else data.detach().float()
    plain = plain + 0.0  # makes -0.0 the 0.0 that it equals
    digest = hashlib.sha256(str(tuple(data.shape)).encode())
    digest.update(plain.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def fingerprints(record: Image | KSpace) -> tuple[str, ...]:
    """The fingerprint of each subject's data, in the order in which subjects first appear."""
    subjects = list(dict.fromkeys(record.rows.subject.tolist()))
    return tuple(fingerprint(record.data[record.rows.subject == subject]) for subject in subjects)


def frame_fingerprints(record: Image | KSpace) -> tuple[str, ...]:
    """The fingerprint of each frame ``[channel, z, y, x]`` of every row: finds a cine by any frame that was kept of it.

    >>> from firstread.core.geometry import Grid
    >>> from firstread.core.records import Rows
    >>> cine = Image(Rows.subjects(1), torch.rand(1, 3, 1, 1, 4, 4), Grid.from_spacing((1, 4, 4), (8.0, 1.0, 1.0)))
    >>> len(frame_fingerprints(cine)), frame_fingerprints(cine)[1] == fingerprint(cine.data[0, 1])
    (3, True)
    """
    return tuple(fingerprint(frame) for row in record.data for frame in row)


def require_disjoint(calibration: Iterable[str], training: Iterable[str], *, what: str = "calibration",
                     other: str = "training") -> None:
    """Raise SettingError where a fingerprint is in both sets, or twice in the first.

    >>> require_disjoint(["a", "b"], ["c"])
    >>> require_disjoint(["a", "b"], ["b"])
    Traceback (most recent call last):
      ...
    firstread.core.errors.SettingError: 1 of 2 calibration cases among the training cases (first: b); expected ...
    """
    found, known = list(calibration), set(training)
    both = [case for case in found if case in known]
    if both:
        raise SettingError(f"{len(both)} of {len(found)} {what} cases among the {other} cases (first: {both[0]})",
                           expected=f"{what} cases that no part of the chain has seen",
                           remedy=f"take them out of the {what} set")
    twice = [case for index, case in enumerate(found) if case in found[:index]]
    if twice:
        raise SettingError(f"{len(twice)} of {len(found)} {what} cases given twice (first: {twice[0]})",
                           expected="each case once", remedy="count every case once")
