"""How many requests go out, and how fast."""

from __future__ import annotations

import asyncio
from pathlib import Path

from hivemind_exp.sources.limiter import Limiter
from hivemind_exp.sources.openai_chat import ChatClient
from hivemind_exp.sources.router import Router, Service
from hivemind_exp.sources.wire import Fault as WireFault
from hivemind_exp.sources.wire import Trouble
from tests.api.faults import Fault
from tests.api.server import api_server
from tests.hivemind_exp.nodes import Events
from tests.hivemind_exp.sources.offloading import PRICE, endpoint, engine, order


def test_many_refusals_at_once_are_one_reason_to_wait() -> None:
    async def job() -> None:
        box = endpoint("http://127.0.0.1:9/v1")
        service = Service(box, ChatClient(box, None, seconds=1), Limiter(64, None, None), PRICE)
        router = Router([service], Events())
        for _ in range(64):
            router.failed(service, WireFault(Trouble.SLOW_DOWN, "HTTP 429"))
        assert service.slowed == 1
        assert service.limiter.held
        await asyncio.sleep(0.6)
        assert not service.limiter.held
        router.failed(service, WireFault(Trouble.SLOW_DOWN, "HTTP 429"))
        assert service.slowed == 2
        await service.client.close()

    asyncio.run(job())


def test_fewer_go_out_after_a_429_and_not_after_a_server_error(tmp_path: Path) -> None:
    with api_server() as server, engine(tmp_path, endpoint(server.base_url)) as rig:
        rig.offload.probed()
        (service,) = rig.offload._chain
        assert service is not None
        server.next(Fault.SERVER_ERROR, times=5)
        rig.run([order(number) for number in range(10)])
        assert service.limiter.window == 64
        server.next(Fault.RATE_LIMIT)
        rig.run([order(10)])
        assert 32 <= service.limiter.window < 64
