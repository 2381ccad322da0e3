"""Names of models as people read them."""

BUILT_IN = ("tiny", "smollm2")
"""Names that are neither a directory nor an id on the hub."""
_PATH_STARTS = ("/", "./", "../", "~")


def short_name(model: str) -> str:
    """Return the last component of a local path; any other name, such as ``org/model``, unchanged."""
    if not model.startswith(_PATH_STARTS):
        return model
    return model.rstrip("/").rsplit("/", 1)[-1] or model
