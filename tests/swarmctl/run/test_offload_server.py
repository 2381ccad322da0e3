"""``--offload`` with a local provider whose model is not named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from hivemind_exp.errors import ConfigurationError, ProviderError
from hivemind_exp.providers import PROVIDERS
from swarmctl.run.offload_server import with_server
from swarmctl.settings.command_line import resolved_options
from swarmctl.settings.offload_target import offload_flags
from swarmctl.settings.options import RunOptions
from swarmctl.terminal.prompter import Prompter
from tests.support.fake_api.faults import Fault
from tests.support.fake_api.server import api_server


def model_of(target: str, *assignments: str) -> str | None:
    """Return ``offload.model`` after the server was asked, if it is."""
    options = RunOptions(flags=tuple(offload_flags(target)), assignments=assignments)
    options = with_server(options, resolved_options(options), Prompter(silent=True))
    return resolved_options(options).config.offload.model


def test_a_local_provider_without_a_named_model_uses_the_servers_only_one(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with api_server(models=("only",)) as server:
        for name in ("llamacpp", "vllm", "ollama", "lmstudio"):
            monkeypatch.setitem(PROVIDERS, name, replace(PROVIDERS[name], base_url=server.base_url))
            assert model_of(name) == "only"
            assert model_of(f"{name}:named") == "named"
        assert model_of("mybox", f"providers.mybox.base_url={server.base_url}") == "only"
        with server.down(), pytest.raises(ProviderError, match="for its models: connection refused") as caught:
            model_of("llamacpp")
        assert str(caught.value.next).endswith("--offload llamacpp")


def test_a_server_that_sends_no_list_is_not_said_to_need_no_key(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with api_server(models=("only",)) as server:
        url = server.base_url.replace("127.0.0.1", "localhost")
        assert model_of(f"{url}:named") == "named"
        assert "It counts as free, because it is on this machine and needs no key." in capsys.readouterr().err
        server.next(Fault.SERVER_ERROR, endpoint="models")
        assert model_of(f"{url}:named") == "named"
        said = capsys.readouterr().err
        assert said.startswith(f"warning: the server at {url} did not list its models (the service responded with HTTP")
        assert "so it is unknown whether it needs a key. It counts as free, because it is on this machine" in said
        assert " doctor api --profile default " in said.splitlines()[-1]
        with server.down():  # the plan and the start of the run say it
            assert model_of(f"{url}:named") == "named"
            assert capsys.readouterr().err == ""


def test_a_server_of_the_nodes_own_weights_is_not_asked_which_model_it_has(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with api_server(models=("first", "second")) as server:
        monkeypatch.setitem(PROVIDERS, "vllm", replace(PROVIDERS["vllm"], base_url=server.base_url))
        own = ("offload.kind=policy", "model.name=org/mine")
        assert not model_of("vllm", *own)
        assert model_of(server.base_url, *own) == "org/mine"
        with server.down():
            assert not model_of("vllm", *own)


def test_of_several_models_one_must_be_named(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with api_server(models=("first", "second")) as server:
        monkeypatch.setitem(PROVIDERS, "llamacpp", replace(PROVIDERS["llamacpp"], base_url=server.base_url))
        with pytest.raises(ConfigurationError, match="has 2 models: first, second") as caught:
            model_of("llamacpp")
    assert str(caught.value.next).endswith("--offload llamacpp:first")


def test_a_provider_with_a_default_model_or_a_key_is_not_asked(home: Path) -> None:
    keyed = ("providers.mybox.base_url=http://127.0.0.1:9/v1", "providers.mybox.needs_key=true")
    assert not model_of("openai")
    assert not model_of("mybox", *keyed)
    assert not model_of("mybox", keyed[0], "providers.mybox.model=own")
    assert not model_of("off")
