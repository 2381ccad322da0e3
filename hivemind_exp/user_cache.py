"""The directory for what is downloaded once and can be downloaded again."""

import os
from collections.abc import Mapping
from pathlib import Path


def user_cache(environment: Mapping[str, str]) -> Path:
    """Return the user's cache directory for this program, which need not exist."""
    cache = environment.get("XDG_CACHE_HOME") or os.path.join(environment.get("HOME", "~"), ".cache")
    return Path(os.path.expanduser(cache), "swarmctl")
