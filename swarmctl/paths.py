"""Where files are stored: the same paths on every system, none of them with a space.

============================= ================================== ==============================
what                          default                            with SWARMCTL_HOME=/d
============================= ================================== ==============================
profiles                      ~/.config/swarmctl/profiles        /d/profiles
metadata of saved keys        ~/.config/swarmctl/keys            /d/keys
keys stored in files          ~/.config/swarmctl/secrets         /d/secrets
nodes                         ~/.local/share/swarmctl/nodes      /d/nodes
answers of evaluations        ~/.local/share/swarmctl/evals      /d/evals
traceback of the latest bug   ~/.local/share/swarmctl/crash.log  /d/crash.log
============================= ================================== ==============================
"""

import os
from pathlib import Path

from hivemind_exp.foreign_text import visible

HOME_VARIABLE = "SWARMCTL_HOME"
BUILTIN = Path(__file__).with_name("builtin")
COMPLETIONS = Path(__file__).with_name("completions")


def _base(default: str) -> Path:
    home = os.environ.get(HOME_VARIABLE)
    return Path(os.path.abspath(os.path.expanduser(home))) if home else Path.home() / default


def profiles_directory() -> Path:
    """Return the directory of the user's profiles."""
    return _base(".config/swarmctl") / "profiles"


def keys_directory() -> Path:
    """Return the directory with one file per key, which holds everything but the key itself."""
    return _base(".config/swarmctl") / "keys"


def secrets_directory() -> Path:
    """Return the directory of keys that the user chose to store in files."""
    return _base(".config/swarmctl") / "secrets"


def nodes_directory() -> Path:
    """Return the directory that holds one directory per node."""
    return _base(".local/share/swarmctl") / "nodes"


def evals_directory() -> Path:
    """Return the directory that holds one directory per evaluated model and its questions."""
    return _base(".local/share/swarmctl") / "evals"


def crash_log() -> Path:
    """Return the file with the traceback of the latest error that is a bug in swarmctl."""
    return _base(".local/share/swarmctl") / "crash.log"


def shown(path: Path) -> str:
    """Return ``path`` for display, on one line and with ``~`` for the home directory."""
    home = str(Path.home())
    text = str(path)
    return visible("~" + text[len(home) :] if home != "/" and text.startswith(home + os.sep) else text)
