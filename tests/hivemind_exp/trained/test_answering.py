"""Answers of a trained model: from the right weights, streamed, verified, and without a change to the node."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from hivemind_exp.errors import ConfigurationError, FileProblem, ModelError
from hivemind_exp.game.prompt_style import ChatBuilder, PromptStyle
from hivemind_exp.node_files import NodeFiles
from hivemind_exp.trained.answering import Conversation, chat, opening, own_question, sample
from hivemind_exp.trained.loading import Job, loaded_model, own_tasks
from hivemind_exp.trainer.checkpoints import Checkpoint
from tests.hivemind_exp.trained.conftest import Trained, contents
from tests.support.links import RecordedLink
from tests.support.nodes import make_config

ORDER: dict[str, Any] = {"text": None, "questions": 2, "base": True, "system": None, "seed": None}


def weights(node: Trained, checkpoint: Checkpoint | None) -> torch.Tensor:
    """Return a fingerprint of the weights that answer: the logits of one prompt."""
    job = replace(node.job({}, RecordedLink()), checkpoint=checkpoint)
    with loaded_model(job) as loaded, torch.no_grad():
        logits: torch.Tensor = loaded.model(torch.tensor([[5, 6, 7]])).logits
        return logits


@pytest.mark.slow
def test_each_checkpoint_and_the_model_before_training_answer_with_their_own_weights(either: Trained) -> None:
    first = Checkpoint(either.newest.path.with_name("00000001"), 1, 1)
    found = [weights(either, checkpoint) for checkpoint in (None, first, either.newest)]
    assert not torch.allclose(found[0], found[1])
    assert not torch.allclose(found[1], found[2])
    assert torch.equal(found[2], weights(either, either.newest))


@pytest.mark.slow
@pytest.mark.usefixtures("spelling")
def test_held_out_questions_are_answered_before_and_after_training_with_verdicts(full: Trained) -> None:
    before, link = contents(full.files.root), RecordedLink()
    sample(full.job(ORDER, link))
    questions, answers = link.of("question"), link.of("answer")
    assert len(questions) == len(answers) == 2
    assert questions[0]["task"] == "spelling"
    assert questions[0]["question"].endswith(questions[0]["reference"][::-1])
    for answer in (*answers, *(question["before"] for question in questions)):
        assert answer["correct"] in (True, False)
        assert answer["why"] == "compared"
        assert answer["tokens"] > 0
    assert any(
        question["before"]["text"] != answer["text"] for question, answer in zip(questions, answers, strict=True)
    )
    last = next(n for n, event in enumerate(link.all) if event["event"] == "answer")
    pieces = [event["text"] for event in link.all[:last] if event["event"] == "text"]
    assert "".join(pieces) == answers[0]["text"]
    assert contents(full.files.root) == before


@pytest.mark.slow
def test_an_own_prompt_has_no_verdict_and_sampling_depends_on_the_seed(full: Trained) -> None:
    texts = []
    for seed in (1, 1, 2):
        link = RecordedLink()
        order = ORDER | {"text": "abc", "base": False, "seed": seed}
        sample(full.job(order, link))
        (question,), (answer,) = link.of("question"), link.of("answer")
        assert question == {"event": "question", "question": "abc", "before": None}
        assert (answer["correct"], answer["why"]) == (None, None)
        texts.append(answer["text"])
    assert texts[0] == texts[1] != texts[2]


def test_the_questions_of_a_node_without_its_secret_are_not_replaced_by_others(tmp_path: Path) -> None:
    with (
        pytest.raises(FileProblem, match="held-out questions are unknown"),
        own_tasks(make_config(), NodeFiles(tmp_path)),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_tiny_model_that_is_still_warming_up_is_an_error(tmp_path: Path) -> None:
    job = Job(make_config(warmup={"steps": 5}), NodeFiles(tmp_path), None, {}, RecordedLink())
    with pytest.raises(ModelError, match="has not finished its warm-up"), loaded_model(job):
        pass


@pytest.mark.slow
def test_a_chat_keeps_its_turns_until_the_context_is_full(full: Trained) -> None:
    with loaded_model(full.job({}, RecordedLink()), trained=False) as speaker:
        talk = Conversation(full.config, speaker, ChatBuilder(), "")
        room = speaker.context - full.config.generation.max_completion_tokens
        assert talk.ask("a" * (room // 2))[1] == 0
        talk.answered("b")
        prompt, forgotten = talk.ask("c" * (room // 3))
        assert [turn["role"] for turn in prompt.messages] == ["user", "assistant", "user"]
        assert forgotten == 0
        talk.answered("d")
        prompt, forgotten = talk.ask("e" * (room // 2))
        assert [turn["content"][0] for turn in prompt.messages] == ["c", "d", "e"]
        assert forgotten == 2
        assert len(prompt.ids) <= room
        with pytest.raises(ConfigurationError, match="too long"):
            talk.ask("f" * (room + 1))


@pytest.mark.slow
def test_a_chat_answers_each_message_and_goes_on_after_one_that_is_too_long(full: Trained) -> None:
    link = RecordedLink({"say": "abc"}, {"say": "x" * 5000}, {"say": "def"}, {})
    chat(full.job({"system": None, "seed": 3}, link))
    events = [event["event"] for event in link.all if event["event"] not in ("phase", "text")]
    assert events == ["ready", "answer", "refused", "answer"]
    assert all(not answer["stopped"] for answer in link.of("answer"))


@pytest.mark.slow
def test_ctrl_c_ends_an_answer_but_not_the_chat(full: Trained) -> None:
    link = RecordedLink({"say": "abc"}, {"say": "def"}, {})
    keep = link.write
    assert keep is not None

    def interrupt_once(line: str) -> None:
        keep(line)
        if '"text"' in line and not link.of("answer"):
            link.stop.set()

    link.write = interrupt_once
    longer = full.config.generation.model_copy(update={"max_completion_tokens": 40})
    config = full.config.model_copy(update={"generation": longer})
    chat(replace(full.job({"system": "", "seed": 3}, link), config=config))
    assert [answer["stopped"] for answer in link.of("answer")] == [True, False]


def test_the_system_turn_is_the_nodes_own_yours_or_none() -> None:
    question = own_question(make_config(), "abc")
    boxed = ChatBuilder(PromptStyle("boxed", system=False))
    assert [turn["role"] for turn in opening(question, boxed, "")] == ["user"]
    assert opening(question, boxed, "Be brief.")[0] == {"role": "system", "content": "Be brief."}
    (only,) = opening(question, boxed, None)
    assert only["content"].startswith("abc ")
    assert "boxed" in only["content"]
