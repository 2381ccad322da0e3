"""What a node learns from an API's text, in words."""

from hivemind_exp.config import OFF, Config
from hivemind_exp.rollouts.types import MOST_ANSWERS
from hivemind_exp.source_kinds import Kind

_TAUGHT = {
    "distillation": "distillation: GRPO on this machine's completions, plus log π_teacher - log π for each token",
    "hints": (
        "hints: this node learns its correct answers to prompts with a hint, as answers to the prompts without it, at "
        f"most {MOST_ANSWERS} different ones per question"
    ),
}
DESCRIPTIONS = {
    Kind.RELAY: "relay: completions are verified and saved; no model is loaded or trained",
    Kind.POLICY: "policy: GRPO with the weights π/π_server, at most 2, because the server may be some steps behind",
    Kind.POLICY_TEXT: (
        "policy_text: GRPO with ratio 1 on re-encoded text, without negative advantages, because the server's weights "
        "may be old"
    ),
    Kind.HINTED: "hinted: supervised learning on correct answers, as answers to prompts without the hint",
    Kind.PEER: "peer: as train.peer_loss says, on completions that this node verified again",
}
"""For each kind except ``Kind.TEACHER``: what is learned from its completions."""
TEACHER_LOSS_DESCRIPTIONS = {
    "gated": (
        "teacher: supervised learning on correct answers in the requested format, at most "
        f"{MOST_ANSWERS} different ones per question"
    ),
    "luffy": "teacher: LUFFY policy shaping, f(π) = π/(π + 0.1), with advantages within the joint group",
}
"""For each value of ``train.teacher_loss``: what is learned from a teacher's answers."""


def describe_loss(config: Config) -> str:
    """Describe in one sentence what is learned from the API's text."""
    if config.judge.provider != OFF:
        return "judge: a grade for each of this node's completions, as one term of the reward"
    kind, offload = config.offload.counts_as, config.offload
    if offload.teach in _TAUGHT:
        return _TAUGHT[offload.teach]
    if kind is not Kind.TEACHER:
        return DESCRIPTIONS[kind]
    text = TEACHER_LOSS_DESCRIPTIONS[config.train.teacher_loss]
    if config.train.joins_baseline:
        return text
    if offload.share == 1 and offload.when == "always":
        return f"{text}, learning rate {config.teacher_learning_rate:g}"
    return f"{text}, weighted by how rarely this node is correct (1 - its mean reward)"
