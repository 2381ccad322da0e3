"""What is said about a service that does not score tokens, and which command to type then."""

from hivemind_exp.errors import ProviderError
from hivemind_exp.offload.router import ProviderService

LEARN_FROM_ANSWERS = "swarmctl run --set offload.teach=answers"
WITHOUT_SCORES = (
    "This node learns from such completions without the teacher. To learn from a teacher's answers instead, set "
    "offload.teach=answers"
)
_NEEDS = (
    "offload.teach = distillation needs a server that returns the log-probabilities of given token ids, such as vLLM "
    "or SGLang, with a model that has this node's tokenizer"
)


def cannot_score(service: ProviderService, why: str) -> ProviderError:
    """Return the error for a service whose answer to a test request has no scores. ``why``: a clause about it."""
    name = service.label
    return ProviderError(f"{name} cannot be this node's teacher: {why}. {_NEEDS}", next=LEARN_FROM_ANSWERS)
