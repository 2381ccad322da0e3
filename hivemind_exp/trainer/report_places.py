"""Where the logging backends put their files, and what they send. They read it only from the environment."""

import os
from pathlib import Path

PROJECT = "swarmctl"
"""What the logging backends call the project of all nodes."""
_ELSEWHERE = tuple(f"TRACKIO_{name}" for name in ("SPACE_ID", "SERVER_URL", "BUCKET_ID", "DATASET_ID", "WEBHOOK_URL"))


def place_reports(output: Path) -> None:
    """Put the logging backends' files in the node's directory. Call it before they are imported."""
    os.environ["TENSORBOARD_LOGGING_DIR"] = str(output / "tensorboard")
    os.environ["WANDB_DIR"] = str(output)
    os.environ.setdefault("TRACKIO_DIR", str(output / "trackio"))
    for name in _ELSEWHERE:  # trackio would send metrics there
        os.environ.pop(name, None)
    os.environ.setdefault("WANDB_PROJECT", PROJECT)
    # Send only metrics, neither console output nor the program's code.
    os.environ["WANDB_CONSOLE"] = "off"
    os.environ["WANDB_DISABLE_CODE"] = "true"
