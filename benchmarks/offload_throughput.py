"""Measure the offloading engine's request rate, compared with the raw async SDK, single requests and a rate limit.

The server runs in a separate process and answers after a fixed time.

First comparison: with 64 requests in flight, the engine (with its journal, ledger and limiter) against the plain SDK,
and against one request at a time.

Second comparison: services that limit requests or tokens per minute. The limit is set in the profile or appears only in
the response headers. Prints which share of the limit was used and how many requests were refused. ``--window`` is the
time over which the service counts. With one minute, as in real services, each run takes more than two minutes.

    python -m benchmarks.offload_throughput
    python -m benchmarks.offload_throughput --only limits --window 60
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support.engine_rig import SAMPLING, endpoint, engine, order
from tests.support.fake_api.client import connect
from tests.support.fake_api.ledger import Entry
from tests.support.fake_api.remote import RemoteServer, api_process

IN_FLIGHT = 64
GROUP = 8
WAVES = 16
"""Requests per run, in multiples of the number in flight."""
ONE_BY_ONE = 8
LATENCY_S = 0.5
REQUESTS_PER_MINUTE = 1200
TOKENS_PER_MINUTE = 90_000
WINDOWS = 3
"""Length of one run, in windows of the limit."""
BARS = {"x the raw SDK": 0.95, "x one at a time": 50.0, "of the limit": 0.95}


def engine_rate(server: RemoteServer, requests: int) -> float:
    """Return the engine's requests per second. Groups use fan-out: a group's first request goes before the others."""
    with (
        tempfile.TemporaryDirectory() as root,
        engine(Path(root), endpoint(server.base_url), concurrency=IN_FLIGHT) as rig,
    ):
        rig.offload.wait_for_probe()
        begun = time.perf_counter()
        rig.run([order(number, GROUP) for number in range(requests // GROUP)])
        return requests / (time.perf_counter() - begun)


def sdk_rate(server: RemoteServer, requests: int, in_flight: int) -> float:
    """Return requests per second of the plain SDK on the aiohttp transport."""

    async def job() -> float:
        async with connect(server) as client:
            places = asyncio.Semaphore(in_flight)

            async def ask(number: int) -> None:
                async with places:
                    messages: Any = order(number // GROUP).messages
                    await client.chat.completions.create(
                        model="test-model", messages=messages, max_tokens=SAMPLING.max_tokens, temperature=1.0
                    )

            await ask(0)
            begun = time.perf_counter()
            await asyncio.gather(*(ask(number) for number in range(requests)))
            return requests / (time.perf_counter() - begun)

    return asyncio.run(job())


def compare_speed(runs: int) -> None:
    """Print the speed of the engine and of the SDK, measured alternately in each run."""
    requests = WAVES * IN_FLIGHT
    beside_sdk, beside_one = [], []
    print(
        f"{requests} requests, {LATENCY_S} s each, {IN_FLIGHT} in flight      engine   raw SDK   one at a time   (1/s)"
    )
    with api_process(latency=LATENCY_S) as server:
        for run in range(runs):
            ours = engine_rate(server, requests)
            raw = sdk_rate(server, requests, IN_FLIGHT)
            one = sdk_rate(server, ONE_BY_ONE, 1)
            beside_sdk.append(ours / raw)
            beside_one.append(ours / one)
            print(f"run {run}{'':42}{ours:8.1f}  {raw:8.1f}  {one:14.2f}", flush=True)
    tell("x the raw SDK", beside_sdk)
    tell("x one at a time", beside_one)


def limit_use(
    limits: dict[str, Any], stated: tuple[int | None, int | None], window: float, weigh: Callable[[Entry], float]
) -> tuple[float, int]:
    """Return the share of a limit that was used over ``WINDOWS`` windows, and the number of refused requests.

    ``weigh``: how much a request counts toward the limit.
    """
    (allowed,) = [limits[name] for name in ("rpm", "tpm") if name in limits]
    with (
        api_process(latency=0.3, window=window, **limits) as server,
        tempfile.TemporaryDirectory() as root,
        engine(
            Path(root),
            endpoint(server.base_url, counts_maximum=limits.get("charge") == "asked"),
            concurrency=IN_FLIGHT,
            rates=stated,
        ) as rig,
    ):
        rig.offload.wait_for_probe()
        begun = time.time()
        rig.offload.submit([order(number, GROUP) for number in range(int(1.2 * WINDOWS * window * 30 / GROUP))])
        time.sleep(WINDOWS * window)
        ended = time.time()
        books = server.ledger
    entries = [entry for entry in books.chats if begun <= entry.started <= ended]
    refused = sum(entry.status == 429 for entry in entries)
    used = sum(weigh(entry) for entry in entries if entry.status != 429)
    return used / (allowed * (ended - begun) / 60), refused


def asked_tokens(entry: Entry) -> float:
    return entry.prompt_tokens + entry.n * SAMPLING.max_tokens


def used_tokens(entry: Entry) -> float:
    return entry.prompt_tokens + entry.completion_tokens


def compare_limits(window: float, runs: int) -> None:
    """Print the used share of each kind of limit."""
    cases: list[tuple[str, dict[str, Any], tuple[int | None, int | None], Callable[[Entry], float]]] = []
    requests = {"rpm": REQUESTS_PER_MINUTE}
    cases.append(("requests, in the profile", requests, (REQUESTS_PER_MINUTE, None), lambda _: 1.0))
    cases.append(("requests, in headers only", requests, (None, None), lambda _: 1.0))
    weighing: tuple[tuple[str, Callable[[Entry], float]], ...] = (("asked", asked_tokens), ("used", used_tokens))
    for charge, weigh in weighing:
        limit = TOKENS_PER_MINUTE if charge == "asked" else TOKENS_PER_MINUTE // 4
        tokens = {"tpm": limit, "charge": charge}
        cases.append((f"tokens {charge}, in the profile", tokens, (None, limit), weigh))
        cases.append((f"tokens {charge}, in headers only", tokens, (None, None), weigh))
    print(f"limits counted over {window:g} s, {WINDOWS * window:g} s per run        share used   refused (429)")
    for name, limits, stated, weigh in cases:
        found = [limit_use(limits, stated, window, weigh) for _ in range(runs)]
        share, refused = statistics.median(use for use, _ in found), sum(count for _, count in found)
        missed = "  missed" if share < BARS["of the limit"] or refused else ""
        print(f"{name:<50}{share:>9.1%}{refused:>16}{missed}", flush=True)


def tell(what: str, ratios: list[float]) -> None:
    median = statistics.median(ratios)
    missed = "" if median >= BARS[what] else "  missed"
    print(f"median {median:.3f} {what} (lowest {min(ratios):.3f}; target {BARS[what]:g}){missed}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3, help="runs of the speed comparison")
    parser.add_argument("--limit-runs", type=int, default=1, help="runs per limit")
    parser.add_argument("--window", type=float, default=12.0, help="seconds over which the service counts usage")
    parser.add_argument("--only", choices=["speed", "limits"])
    options = parser.parse_args()
    if options.only != "limits":
        compare_speed(options.runs)
    if options.only != "speed":
        compare_limits(options.window, options.limit_runs)


if __name__ == "__main__":
    main()
