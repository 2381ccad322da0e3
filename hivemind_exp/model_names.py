"""Names of models, as people read them and as services repeat them."""

import re

BUILT_IN = ("tiny", "smollm2")
"""Names that are neither a directory nor an id on the hub."""
_PATH_STARTS = ("/", "./", "../", "~")
_LATEST = re.compile(r"[-:]latest$")
"""An alias: ``mistral-small-latest`` is answered as ``mistral-small-2501``."""


def short_name(model: str) -> str:
    """Return the last component of a local path; any other name, such as ``org/model``, unchanged."""
    if not model.startswith(_PATH_STARTS):
        return model
    return model.rstrip("/").rsplit("/", 1)[-1] or model


def same_model(asked: str, told: str) -> bool:
    """Whether two names mean one model: ``gpt-4o-2024-08-06`` is a version of ``gpt-4o``, ``gpt-4o-mini`` is not.

    A revision is ignored: ``transformers serve`` answers as ``m@main`` when asked for ``m``.
    """
    if told.lower().startswith(f"{asked.lower()}@"):
        return True
    names = (_LATEST.sub("", _short(name).partition("@")[0]) for name in (asked, told))
    short, long = sorted(names, key=len)
    return re.fullmatch(rf"{re.escape(short)}([-:](\d[\d.-]*|latest|free|v\d+))?", long) is not None


def _short(model: str) -> str:
    """Return a model's name without its owner, which services add and drop."""
    return model.rsplit("/", 1)[-1].lower()
