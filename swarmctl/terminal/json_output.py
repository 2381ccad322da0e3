"""The objects that ``--json`` prints."""

import json
from typing import Any


def print_json(**fields: Any) -> None:
    """Print one object on stdout: the schema version, then ``fields`` in order."""
    print(json.dumps({"schema": 1, **fields}), flush=True)
