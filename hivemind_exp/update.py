"""The command that updates this installation."""

import json
import shlex
import sys
from pathlib import Path


def update_command() -> str:
    """Return the command that updates this program: its files, and the packages it needs."""
    root = Path(__file__).parents[1]
    if (root / ".git").exists():
        # The Makefile's environment; any other was made by hand, and so is the editable installation in it.
        made = Path(sys.prefix) == root / ".venv"
        install = ["make", "-C", str(root), ".venv/.installed"] if made else [*_PIP, "--editable", str(root)]
        return f"{_pull(root)} && {shlex.join(install)}"
    source = _source()
    if source is None or not (source / ".git").exists():
        return "swarmctl --version"  # only the user knows where it came from
    tool = Path(sys.prefix).parts
    if "uv" in tool:
        install = ["uv", "tool", "install", "--reinstall", str(source)]
    elif "pipx" in tool:
        install = ["pipx", "install", "--force", str(source)]
    else:
        install = [*_PIP, str(source)]
    return f"{_pull(source)} && {shlex.join(install)}"


_PIP = (sys.executable, "-m", "pip", "install")


def _pull(directory: Path) -> str:
    return shlex.join(["git", "-C", str(directory), "pull"])


def _source() -> Path | None:
    """Return the directory from which this program was installed; None if it is unknown."""
    # Imported here, because that takes a quarter of the time of most commands, which need no such line.
    from importlib import metadata
    from urllib.parse import unquote, urlsplit

    try:
        record = metadata.distribution("swarmctl").read_text("direct_url.json")
        address = urlsplit(json.loads(record or "{}").get("url", ""))
    except (metadata.PackageNotFoundError, ValueError):
        return None
    return Path(unquote(address.path)) if address.scheme == "file" else None
