"""The data of a report: its nodes, and how they compare."""

from collections.abc import Sequence
from typing import Any

from hivemind_exp.node_files import NodeFiles
from swarmctl.report.comparison import comparisons
from swarmctl.report.node_report import NodeReport
from swarmctl.storage.json_file import now
from swarmctl.version import VERSION


class PageData:
    """The data of a report, read anew each time."""

    def __init__(self, nodes: Sequence[NodeFiles], samples: int) -> None:
        self.nodes = nodes
        self._reports = [NodeReport(files) for files in nodes]
        self._samples = samples

    def read(self) -> dict[str, Any]:
        """Return what ``report --json`` prints, without its schema. Raises ``NodeError``."""
        return {
            "created": now(),
            "version": VERSION,
            "nodes": [each.read(self._samples) for each in self._reports],
            "comparisons": comparisons(self.nodes),
        }
