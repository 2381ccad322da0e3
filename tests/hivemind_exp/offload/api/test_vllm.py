"""What vLLM's answers mean, and that nothing in them is believed."""

from __future__ import annotations

import json
from typing import Any

import pytest

from hivemind_exp.offload.api.faults import RequestFailed, refusal
from hivemind_exp.offload.api.policy_server import NO_WEIGHTS, Sampling, checked_row, explain
from hivemind_exp.offload.api.vllm import CAUSES

SAMPLING = Sampling(temperature=1.0, max_tokens=4, end_ids=(1,), vocabulary=10)


@pytest.mark.parametrize(
    ("status", "message", "why", "remedy"),
    [
        (
            404,
            "Loading lora a failed: No adapter found for <path>",
            "cannot read the directory",
            "offload.serving.folder",
        ),
        (500, "Worker failed with error '<path> doesn't contain tensors'", NO_WEIGHTS, "files arrive"),
        (500, "Worker failed with error 'Error while deserializing header: incomplete'", NO_WEIGHTS, "files arrive"),
        (500, "'LoRA rank 64 is greater than max_lora_rank 16.'", "up to rank 16", "--max-lora-rank"),
        (500, "'LoRA is not enabled. Use --enable-lora to enable LoRA.'", "does not serve adapters", "--enable-lora"),
        (500, "something else", "did not load the weights", None),
    ],
)
def test_a_refused_adapter_is_explained(status: int, message: str, why: str, remedy: str | None) -> None:
    content = json.dumps({"error": {"message": message, "type": "Error", "code": status}}).encode()
    failed = explain(refusal(status, content, {}), CAUSES)
    assert why in str(failed)
    assert message[:20].replace("'", "") in str(failed).replace("'", "")
    assert (remedy is None) == (failed.remedy is None)
    assert (remedy or "") in (failed.remedy or "")


def test_a_server_without_the_interface_is_told_apart_from_a_missing_adapter() -> None:
    failed = explain(refusal(404, b'{"detail":"Not Found"}', {}), CAUSES)
    assert "VLLM_ALLOW_RUNTIME_LORA_UPDATING=1" in (failed.remedy or "")


def test_a_row_has_the_tokens_as_sampled() -> None:
    row = checked_row([3, 4, 1], [-0.5, -2, 0.0001], SAMPLING)
    assert (row.ids, row.logps) == ((3, 4, 1), (-0.5, -2.0, 0.0))


@pytest.mark.parametrize(
    ("ids", "logps"),
    [
        (None, [-1.0]),
        ([3], None),
        ([], []),
        ([3, 4], [-1.0]),
        ([3, 10], [-1.0, -1.0]),
        ([3, -1], [-1.0, -1.0]),
        ([True], [-1.0]),
        ([3.0], [-1.0]),
        (["3"], [-1.0]),
        ([3], [None]),
        ([3], [0.5]),
        ([3], [float("nan")]),
        ([3], [float("-inf")]),
        ([3], [-(10**400)]),
        ([3], [True]),
        ([3] * 5, [-1.0] * 5),
    ],
)
def test_rows_that_make_no_sense_are_refused(ids: Any, logps: Any) -> None:
    with pytest.raises(RequestFailed):
        checked_row(ids, logps, SAMPLING)
