"""Node directories that older versions made."""

from __future__ import annotations

import tarfile
from pathlib import Path

from hivemind_exp.node_files import NodeFiles
from swarmctl.nodes.lookup import files_of

DATA = Path(__file__).parents[1] / "data" / "nodes"


def unpacked(name: str, home: Path) -> NodeFiles:
    """Unpack a node into a home directory; return its files."""
    nodes = home / "nodes"
    nodes.mkdir(parents=True)
    with tarfile.open(DATA / f"{name}.tar.xz") as archive:
        archive.extractall(nodes, filter="data")
    return files_of("old")
