"""The settings of the judge: the table ``[judge]`` of a profile."""

from typing import Annotated

from pydantic import Field

from hivemind_exp.settings_table import Positive, Section


class JudgeConfig(Section):
    """A model behind an API that grades this node's completions. The grade is added to the verifier's reward.

    Keys, prices, caps and reasoning are those of [offload]."""

    provider: Annotated[str, Field(min_length=1)] = "off"
    """A built-in provider, or the NAME of your [providers.NAME]. "off": no judge."""
    model: str | None = None
    """Model at the provider. Unset: the provider's default."""
    weight: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Reward for the best grade. It is below 1, which a correct answer earns, so no grade outweighs the verifier."""
    instructions: Annotated[str, Field(min_length=1, max_length=4000)] = (
        "How clear, brief and sound is the reasoning that leads to the answer?"
    )
    """What to grade, from 0 to 10."""
    max_tokens: Positive = 16
    """Maximum tokens per grade, in addition to hidden reasoning."""
