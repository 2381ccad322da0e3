"""The name under which an old branch of RL Swarm knew its API: whole groups of completions, for use as a library."""

import hashlib
import os
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

from hivemind_exp.config import Config
from hivemind_exp.errors import KeyProblem
from hivemind_exp.providers import PROVIDERS
from hivemind_exp.rollouts.orders import CompletionRequest
from hivemind_exp.secrets import Secrets


class OpenAIModelWrapper:
    """Completes prompts by an OpenAI-compatible API, with everything that ``swarmctl run --offload`` has: retries,
    limits, a cap on what it may cost. A node does not need it: set ``offload.provider``."""

    def __init__(
        self,
        model_name: str = "gpt-4o-mini",
        *,
        provider: str = "openai",
        usd: float = 5.00,
        max_tokens: int = 512,
        temperature: float = 1.0,
    ) -> None:
        """Say what to ask. ``usd`` bounds each call of ``generate``.

        The key comes from the provider's own environment variable. Raises ``KeyProblem`` where that is not set.
        """
        self._config = Config.model_validate(
            {
                "offload": {"provider": provider, "model": model_name, "fallback": [], "limits": {"usd": usd}},
                "generation": {"max_completion_tokens": max_tokens, "temperature": temperature},
            }
        )
        self._secrets = _secrets(provider)

    def generate(self, prompts: Sequence[str], count: int = 1) -> list[list[str]]:
        """Return ``count`` completions of each prompt; fewer where nothing usable came.

        Raises ``NodeError``: a key refused, a cap reached, a provider that cannot be used.
        """
        from hivemind_exp.config import charter_id
        from hivemind_exp.events import discard
        from hivemind_exp.journal.journal import Journal
        from hivemind_exp.node_files import NodeFiles
        from hivemind_exp.offload.build import make_offload
        from hivemind_exp.stop import StopFlag

        names = [f"{i} {hashlib.sha256(prompt.encode()).hexdigest()}" for i, prompt in enumerate(prompts)]
        orders = [
            CompletionRequest(0, "answer", name, ({"role": "user", "content": prompt},), tuple(range(count)), version=0)
            for name, prompt in zip(names, prompts, strict=True)
        ]
        with TemporaryDirectory() as directory:
            files = NodeFiles(Path(directory))
            Journal(files.journal, charter_id(self._config)).close()
            with closing(make_offload(self._config, files, self._secrets, discard, StopFlag())) as offload:
                offload.wait_for_probe()
                offload.submit(orders)
                offload.wait(0)
            return [_texts(files.journal, order) for order in orders]


def _secrets(provider: str) -> Secrets:
    row = PROVIDERS.get(provider)
    variables = row.variables if row else ()
    key = next((value for name in variables if (value := os.environ.get(name, "").strip())), None)
    if key is None and row is not None and row.needs_key:
        raise KeyProblem(f"${variables[0]} is not set", next=f"swarmctl run --offload {provider}")
    return Secrets({} if key is None else {provider: key})


def _texts(journal: Path, order: CompletionRequest) -> list[str]:
    with closing(sqlite3.connect(journal)) as db:
        rows = db.execute("SELECT text FROM completions WHERE question=? ORDER BY idx", (order.question,))
        return [text for (text,) in rows]
