"""A server whose weights are all replaced by each push, in the place of one that loads adapters.

It has one version of the weights at a time, and names it: what it completes is only used if it had the version that was
asked for, before and after.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

from hivemind_exp.offload.api.policy_server import Advice, PolicyServer, SampledAnswer, Sampling


class WholeWeights:
    """One server. ``load`` takes a directory with a whole checkpoint, and ``complete`` the name under which it was."""

    advice: ClassVar[Advice]
    modules: ClassVar[tuple[str, ...]] = ()

    def __init__(self, server: PolicyServer) -> None:
        self.url = server.url
        self.server = server
        """The same server, which also loads adapters."""

    async def base_model(self) -> str | None:
        return await self.server.base_model()

    async def most_adapters(self) -> int | None:
        return None

    async def adapters(self) -> list[str]:
        return []

    async def load(self, name: str, folder: str) -> None:
        await self.server.reload(name, folder)

    async def unload(self, name: str) -> None:
        """Do nothing: the weights stay until others replace them."""

    async def reload(self, name: str, folder: str) -> None:
        await self.server.reload(name, folder)

    async def reload_problem(self) -> str | None:
        return await self.server.reload_problem()

    async def is_asleep(self) -> bool | None:
        return await self.server.is_asleep()

    async def sleep(self) -> None:
        await self.server.sleep()

    async def wake(self) -> None:
        await self.server.wake()

    async def complete(
        self, adapter: str, prompt: Sequence[int], count: int, sampling: Sampling, seed: int
    ) -> SampledAnswer:
        return await self.server.complete_whole(adapter, prompt, count, sampling, seed)

    async def complete_whole(
        self, version: str, prompt: Sequence[int], count: int, sampling: Sampling, seed: int
    ) -> SampledAnswer:
        return await self.server.complete_whole(version, prompt, count, sampling, seed)

    async def logps_at(self, model: str, prompt: Sequence[int], temperature: float) -> dict[Any, float]:
        return await self.server.logps_at(model, prompt, temperature)

    async def close(self) -> None:
        await self.server.close()
