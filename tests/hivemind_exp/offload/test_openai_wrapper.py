"""The class name from the old branch still works."""

from __future__ import annotations

import pytest

from hivemind_exp import providers
from hivemind_exp.errors import KeyProblem
from hivemind_exp.offload import settings
from hivemind_exp.runner.grpo_runner import OpenAIModelWrapper
from tests.support.fake_api.server import api_server


def test_prompts_are_completed_in_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    with api_server(models=("gpt-4o-mini",), keys={"sk-of-the-test"}) as server:
        row = providers.Provider(
            "openai", server.base_url, ("OPENAI_API_KEY",), chat=providers.PROVIDERS["openai"].chat
        )
        monkeypatch.setitem(settings.PROVIDERS, "openai", row)
        monkeypatch.setenv("OPENAI_API_KEY", "sk-of-the-test")
        monkeypatch.setenv("OPENAI_ORG_ID", "org-of-another")
        found = OpenAIModelWrapper("gpt-4o-mini").generate(["one", "two", "two"], count=3)
        again = OpenAIModelWrapper("gpt-4o-mini").generate(["three"], count=1)
        headers = [entry.headers for entry in server.ledger.chats]
    assert [len(set(texts)) for texts in found] == [3, 3, 3]
    assert [len(texts) for texts in again] == [1]
    assert all("openai-organization" not in each for each in headers)


def test_missing_key_error_names_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(KeyProblem, match="OPENAI_API_KEY is not set"):
        OpenAIModelWrapper()
