"""Shapes are checked in all tests; real data is found beside the checkout, or the test is skipped and says so."""

from pathlib import Path

import pytest
from jaxtyping import install_import_hook

install_import_hook("firstread", "typecheck.checked")

import torch  # noqa: E402

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def realdata() -> Path:
    """The folder of real samples (its README says what they are and under which licence)."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "realdata"
    if not folder.is_dir():
        pytest.skip("no real data beside this checkout (../shared/realdata)")
    return folder
