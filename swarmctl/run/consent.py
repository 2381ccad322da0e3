"""Nothing starts spending by itself: a written cap is consent, else one question per node and provider."""

from hivemind_exp.errors import ConfigurationError
from hivemind_exp.node_files import NodeFiles
from swarmctl.run.offload_plan import Plan, cost
from swarmctl.settings.resolve import Resolved
from swarmctl.storage.json_file import now, read_json, write_json
from swarmctl.terminal.prompter import Prompter

CAP = "offload.limits.usd"


def ask_consent(plan: Plan, resolved: Resolved, files: NodeFiles, prompter: Prompter) -> tuple[str, ...]:
    """Return the providers that are agreed to now, to be recorded.

    Raises ``ConfigurationError`` where the answer is no, or nobody is there to give one.
    """
    if CAP in resolved.origins:
        return ()
    agreed = (read_json(files.consent) or {}).get("providers", {})
    asked = tuple(endpoint for endpoint in plan.paid if endpoint.name not in agreed)
    if not asked:
        return ()
    names = " and ".join(dict.fromkeys(endpoint.label for endpoint in asked))
    hosts = ", ".join(dict.fromkeys(endpoint.host for endpoint in asked))
    cap = resolved.config.offload.limits.usd
    limit = cap if cap == "unlimited" else f"{cap:.2f}"
    prompter.confirm(
        f"{names} costs money, and prompts go to {hosts}. {cost(plan)} At most {limit} USD will be spent in this "
        "node's whole life. Agree?",
        ConfigurationError(
            f"{names} costs money ({cost(plan)[:1].lower()}{cost(plan)[1:-1]}), and nobody has agreed to that: write a "
            f"cap, which is consent",
            next=f"swarmctl run --max-usd {limit}",
        ),
    )
    return tuple(endpoint.name for endpoint in asked)


def record_consent(files: NodeFiles, providers: tuple[str, ...]) -> None:
    """Remember to whom the operator agreed, so that the question is not asked again."""
    if providers:
        known = (read_json(files.consent) or {}).get("providers", {})
        write_json(files.consent, {"schema": 1, "providers": known | dict.fromkeys(providers, now())})
