"""JSON schemas of files that swarmctl writes for other programs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def compose_schema() -> dict[str, Any]:
    """Return the Compose specification's schema, from the package that carries it."""
    import check_jsonschema

    path = Path(check_jsonschema.__file__ or "").with_name("builtin_schemas") / "vendor/compose-spec.json"
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def errors(schema: dict[str, Any], file: dict[str, Any]) -> list[str]:
    """Return what a schema (draft 7) rejects in a file."""
    from jsonschema import Draft7Validator

    return [error.message for error in Draft7Validator(schema).iter_errors(file)]
