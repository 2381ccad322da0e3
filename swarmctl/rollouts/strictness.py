"""Whether a completion is in the format that its prompt asks for: as shown, or only after conversion for training."""

from typing import Literal, TypeAlias

from hivemind_exp.game.study_group.prompts import ANSWER, TAGS
from hivemind_exp.source_kinds import Kind
from hivemind_exp.tasks.verifiers.answer_tags import is_exactly
from hivemind_exp.tasks.verifiers.reader import read
from swarmctl.rollouts.journal import RolloutRecord

Format: TypeAlias = Literal["strict", "converted", "other"]
"""``converted``: strict only in the copy that the node verifies and trains on, and not in the text as received."""
WORDS: dict[str, str] = {
    "strict": "in the requested format",
    "converted": "in the requested format only after conversion for training, shown here as received",
    "other": "not in the requested format",
}
"""What people read for each format."""
_OWN = (Kind.POLICY, Kind.HINTED)
"""Kinds of source whose text is verified as it is."""


def format_of(rollout: RolloutRecord) -> Format:
    """Return in which format the text of a verified rollout is."""
    if not rollout.strict:
        return "other"
    return "strict" if rollout.kind in _OWN or _is_strict(rollout) else "converted"


def _is_strict(rollout: RolloutRecord) -> bool:
    text, names = rollout.text or "", TAGS.get(rollout.stage, ())
    if rollout.stage != ANSWER:
        return is_exactly(text, names)
    reading = read(text, None)
    return reading is not None and reading.strict
