"""The package as a whole: light to import, its public names, its licence."""

import subprocess
import sys
from pathlib import Path

import firstread


def test_import_costs_no_torch():
    code = "import firstread, sys; heavy = {'torch', 'numpy', 'pydicom'} & set(sys.modules); assert not heavy, heavy"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_public_names_resolve():
    for name in firstread.__all__:
        assert getattr(firstread, name) is not None


def test_licence_is_apache():
    assert "Apache License" in (Path(__file__).parents[1] / "LICENSE").read_text()[:200]
