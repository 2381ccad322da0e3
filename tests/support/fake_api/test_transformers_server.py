"""Test the properties of the real server that other tests rely on."""

from __future__ import annotations

import pytest
from openai import OpenAI, UnprocessableEntityError

from tests.support.fake_api.transformers_server import TransformersServer

pytestmark = pytest.mark.slow


def test_real_server_returns_one_completion_without_logprobs(real_server: TransformersServer) -> None:
    with OpenAI(base_url=real_server.base_url, api_key="none", max_retries=0) as client:
        create = client.chat.completions.create
        answer = create(
            model=real_server.model,
            messages=[{"role": "user", "content": "hi"}],
            max_completion_tokens=8,
            n=3,
            logprobs=True,
        )
        with pytest.raises(UnprocessableEntityError):
            create(model=real_server.model, messages=[{"role": "user", "content": "hi"}], extra_body={"nonsense": 1})
    (choice,) = answer.choices
    assert isinstance(choice.message.content, str)
    assert choice.logprobs is None
    assert answer.usage is not None
    assert 0 < answer.usage.completion_tokens <= 8
