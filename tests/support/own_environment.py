"""The environment of a process that was forked from one with another environment."""

from __future__ import annotations

import importlib
import os
import tempfile
from collections.abc import Mapping


def use(environment: Mapping[str, str]) -> None:
    """Replace this process's environment, and what Python and the hub's client have already read from the old one."""
    from huggingface_hub import constants, hf_api

    os.environ.clear()
    os.environ.update(environment)
    tempfile.tempdir = None
    importlib.reload(constants)
    hf_api.api.endpoint = constants.ENDPOINT
