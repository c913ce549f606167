"""Few lines per frame: exact budgets, and a centre that the frames measure together."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from firstread.acquire.coils import GaussianCoils
from firstread.acquire.interleaved import InterleavedLines
from firstread.acquire.mri import Encode
from firstread.acquire.sampling import centre
from firstread.core.errors import SettingError
from firstread.core.geometry import Grid
from firstread.core.keys import Key
from firstread.core.records import Image, Rows
from firstread.reconstruct.sensitivities import estimate_sensitivities


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 32), st.integers(1, 12), st.integers(0, 20), st.integers(0, 1000))
def test_budgets_are_exact_and_the_centre_is_measured(count, frames, together, seed):
    mask = InterleavedLines(count=count, together=together)(frames, 32, torch.Generator().manual_seed(seed))
    assert set(mask.unique().tolist()) <= {0.0, 1.0} and mask.sum(dim=1).tolist() == [count] * frames
    dealt = min(together, frames * count)
    assert bool((mask.sum(dim=0)[centre(32, dealt)] >= 1).all())


def test_two_lines_a_frame_are_enough_to_find_the_coils():
    grid = Grid.from_spacing((2, 32, 16), (8.0, 4.0, 4.0))
    image = Image(Rows.subjects(1), torch.ones(1, 8, 1, 2, 32, 16, dtype=torch.complex64), grid)
    encode = Encode(sampling=InterleavedLines(count=2), coils=GaussianCoils(count=4), snr=None, keep_sensitivities=True)
    kspace = encode(image, Key(0, "encode"))
    assert int(kspace.mask.sum()) == 8 * 2 * 2 and bool((kspace.mask[:, :, :, 0] == kspace.mask[:, :, :, 1]).all())
    found, true = estimate_sensitivities(kspace), kspace.sensitivities
    alike = (found.conj() * true).sum(dim=2).abs()
    assert alike.median() > 0.9
    again = encode(image, Key(0, "encode")).mask
    assert torch.equal(again, kspace.mask) and not torch.equal(encode(image, Key(1, "encode")).mask, again)


def test_bad_input():
    with pytest.raises(SettingError, match="one or more"):
        InterleavedLines(count=0)
    with pytest.raises(SettingError, match="at most all lines"):
        InterleavedLines(count=9)(2, 8, torch.Generator())
