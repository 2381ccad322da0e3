"""What a server lacks for ``offload.kind = "policy"``, found without a model and without changing anything there."""

import asyncio
import json
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

from hivemind_exp.config import Config
from hivemind_exp.offload.api.engines import open_engine
from hivemind_exp.offload.api.faults import RequestFailed
from hivemind_exp.offload.api.policy_server import PolicyServer, PushFailed, Sampling
from hivemind_exp.offload.settings import Endpoint

_PROMPT = (1, 2, 3)
"""Token ids that every vocabulary has."""
_SAMPLING = Sampling(temperature=1.0, max_tokens=12, end_ids=(), vocabulary=2**31)
_SEED = 20231117
_SAME = 1e-4
"""Nats by which log-probabilities of two temperatures differ at least, if they are those of the temperature."""


@dataclass(frozen=True, slots=True)
class MissingFlag:
    """A flag or a setting that a server lacks."""

    text: str
    """Sentences that name the flag or the setting."""
    serious: bool
    """Whether the node cannot learn from the server as it is."""


def shortcomings(endpoint: Endpoint, config: Config, folder: Path, needed: int) -> list[MissingFlag]:
    """Return what a server lacks.

    ``folder``: where adapters are written. ``needed``: how many adapters are in use at a time. Raises ``RequestFailed``
    if the server does not answer, and ``NodeError`` if a proxy cannot be used.
    """
    return asyncio.run(_shortcomings(endpoint, config, folder, needed))


async def _shortcomings(endpoint: Endpoint, config: Config, folder: Path, needed: int) -> list[MissingFlag]:
    server = open_engine(config, endpoint)
    try:
        found = await _refusals(server, config, folder)
        try:
            asleep = await server.is_asleep() if config.offload.serving.turns == "on" else False
        except RequestFailed as fault:
            if fault.status != HTTPStatus.CONFLICT:
                raise
            return [*found, MissingFlag(f"It must be restarted: {fault.detail}.", serious=True)]
        if asleep is None:
            found.append(MissingFlag(f"It cannot sleep. {server.advice.turns}.", serious=False))
        model = None if asleep else await server.base_model()  # one that sleeps answers nothing until it is woken
        if model is not None:
            one, half = [await server.logps_at(model, _PROMPT, temperature) for temperature in (1.0, 0.5)]
            shared = one.keys() & half.keys()
            if shared and all(abs(one[each] - half[each]) < _SAME for each in shared):
                text = (
                    "It returns the log-probabilities of temperature 1, whatever generation.temperature is. "
                    f"{server.advice.sampled_logps}."
                )
                found.append(MissingFlag(text, serious=config.generation.temperature != 1))
            found += await _ignored_seeds(server, model)
        most = await server.most_adapters() if config.model.lora is not None else None
        if most is not None and most < needed:
            remedy = server.advice.most_adapters.format(needed=needed)
            text = f"It keeps {most} in memory of the {needed} adapters in use. {remedy}."
            found.append(MissingFlag(text, serious=False))
        return found
    finally:
        await server.close()


async def _refusals(server: PolicyServer, config: Config, folder: Path) -> list[MissingFlag]:
    """Return why the server would not take what the node trains."""
    if (lora := config.model.lora) is None:
        problem = await server.reload_problem()
        return [] if problem is None else [MissingFlag(problem, serious=True)]
    modules = server.modules if lora.targets == "all-linear" else [each.strip() for each in lora.targets.split(",")]
    there = config.offload.serving.server_folder or str(folder)
    with _adapter_without_weights(folder, lora.rank, modules) as name:
        try:
            await server.load(name, f"{there.rstrip('/')}/{name}")
        except PushFailed as error:
            if not error.only_weights:
                return [MissingFlag(f"It {error}. {error.remedy or ''}".strip(), serious=True)]
    return []


async def _ignored_seeds(server: PolicyServer, model: str) -> list[MissingFlag]:
    """Return what is wrong with the completions that the model under the adapters samples for a seed."""
    first, again = [(await server.complete(model, _PROMPT, 2, _SAMPLING, _SEED)).rows for _ in range(2)]
    if [row.ids for row in first] != [row.ids for row in again]:
        text = f"It ignores seeds, so a request that is repeated brings other completions. {server.advice.seeds}."
        return [MissingFlag(text, serious=False)]
    if first[0].ids == first[1].ids:
        text = "All its completions of a prompt are the same. Put no cache in front of it."
        return [MissingFlag(text, serious=True)]
    return []


@contextmanager
def _adapter_without_weights(folder: Path, rank: int, modules: Sequence[str]) -> Iterator[str]:
    """Write what a server reads first of an adapter; yield its name. It can only be refused."""
    name = f"swarmctl-probe-{secrets.token_hex(4)}"
    shape = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": rank, "lora_alpha": rank, "bias": "none"}
    existed = folder.exists()
    (folder / name).mkdir(parents=True)
    try:
        text = json.dumps({**shape, "target_modules": list(modules)})
        (folder / name / "adapter_config.json").write_text(text, encoding="utf-8")
        yield name
    finally:
        shutil.rmtree(folder / name if existed else folder, ignore_errors=True)
