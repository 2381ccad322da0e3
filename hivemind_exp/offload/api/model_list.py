"""The list of models of a server of adapters, as OpenAI's interface has it: the base model, and what lies on it."""

import json

from hivemind_exp.offload.api.chat import ChatClient
from hivemind_exp.offload.api.faults import broken


class ListsModels:
    """A part of an engine: its ``/v1/models`` names the model under each adapter as its parent."""

    _client: ChatClient

    async def adapters(self) -> list[str]:
        return [name for name, is_adapter in (await self._models()).items() if is_adapter]

    async def base_model(self) -> str | None:
        return next((name for name, is_adapter in (await self._models()).items() if not is_adapter), None)

    async def _models(self) -> dict[str, bool]:
        """Return the names, each with whether it is an adapter. Raises ``RequestFailed``."""
        try:
            entries = json.loads(await self._client.models())["data"]
            return {str(each["id"]): each.get("parent") is not None for each in entries}
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise broken("the list of models is not what a server of adapters sends") from error
