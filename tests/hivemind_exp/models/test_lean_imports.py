"""transformers leaves out scipy if it is told so, and nothing else does."""

from __future__ import annotations

import subprocess
import sys

import pytest

CODE = """
import sys
from hivemind_exp.models.lean_imports import without_scipy
without_scipy()
import transformers.modeling_utils
from transformers.utils import is_scipy_available
print(is_scipy_available(), "scipy" in sys.modules)
import scipy
without_scipy()
print(sys.modules["scipy"] is scipy)
"""


@pytest.mark.slow
def test_only_transformers_does_without_scipy() -> None:
    """A new version of transformers that imports scipy anyway, or asks in another way, fails here."""
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False", "True"]
