"""The rows of the table of providers are complete."""

from __future__ import annotations

from datetime import date

import pytest

from hivemind_exp.config import Config
from hivemind_exp.errors import ConfigurationError
from hivemind_exp.offload.prices import Price, bounded_price
from hivemind_exp.offload.settings import first_endpoint
from hivemind_exp.providers import PROVIDERS

PAID = [name for name, row in PROVIDERS.items() if row.chat is not None and row.needs_key]


def priced(name: str) -> Price:
    try:
        return bounded_price(first_endpoint(Config.model_validate({"offload": {"provider": name}})), {}, capped=True)
    except ConfigurationError as error:
        pytest.fail(
            f"{error}. Set Chat.prices in the row of {name} (hivemind_exp/providers.py) to its name in genai-prices, "
            "and Chat.model to a model that it lists: see python -m tools.prices"
        )


@pytest.mark.parametrize("name", PAID)
def test_every_default_model_has_a_price_and_a_date(name: str) -> None:
    assert not priced(name).retired, f"genai-prices says that the default model of {name} was withdrawn"
    chat = PROVIDERS[name].chat
    assert chat is not None
    assert isinstance(chat.checked, date), f"say when the row of {name} was compared with its documentation"
