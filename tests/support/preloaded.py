"""Imported by the fork server once, so its processes start at once."""

from __future__ import annotations

from hivemind_exp.processes.imports import leave_out
from tests.support.libraries import import_all

leave_out("trackio", "wandb")  # as the trainer does
import_all()
