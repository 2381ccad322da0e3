"""A headless Chromium, driven over its DevTools protocol, without a driver of its own."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
_START_S = 40.0
_FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"),
    *("--no-first-run", "--disable-extensions", "--disable-background-networking", "--disable-sync"),
    *("--disable-component-update", "--no-default-browser-check", "--remote-debugging-port=0", "--mute-audio"),
    # Nothing but this machine can be reached, so a page that loads something from elsewhere fails.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)


def found() -> str | None:
    """Return the path of a Chromium on this machine; None if there is none."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Browser:
    """One tab."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._loop = asyncio.new_event_loop()
        self._session: Any = None
        self._socket: Any = None
        self._number = 0
        self.events: list[dict[str, Any]] = []
        """Events of the tab: messages on its console, requests, and errors."""

    def connect(self) -> None:
        async def connect() -> None:
            self._session = aiohttp.ClientSession()
            self._socket = await self._session.ws_connect(self._address, max_msg_size=1 << 28)

        self._loop.run_until_complete(connect())
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.do(f"{domain}.enable")

    def close(self) -> None:
        async def close() -> None:
            await self._socket.close()
            await self._session.close()

        self._loop.run_until_complete(close())
        self._loop.close()

    def do(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command and return its result."""
        self._number += 1
        order = {"id": self._number, "method": method, "params": parameters}

        async def ask() -> dict[str, Any]:
            await self._socket.send_json(order)
            while True:
                message: dict[str, Any] = json.loads(await self._socket.receive_str())
                if message.get("id") == order["id"]:
                    assert "error" not in message, message
                    return dict(message["result"])
                self.events.append(message)

        return self._loop.run_until_complete(asyncio.wait_for(ask(), 60))

    def open(self, address: str, *, width: int = 1280, height: int = 900, dark: bool = False) -> None:
        """Open an address in a window of this size, and wait until it is loaded."""
        self.do("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        wishes = {"prefers-color-scheme": "dark" if dark else "light", "prefers-reduced-motion": "reduce"}
        self.do("Emulation.setEmulatedMedia", features=[{"name": key, "value": wishes[key]} for key in wishes])
        self.do("Page.navigate", url=address)
        while self.run("document.readyState") != "complete":
            continue

    def run(self, script: str) -> Any:
        """Return the value of a script, also of a promise."""
        answer = self.do("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def press(self, key: str, code: int, *, shift: bool = False) -> None:
        """Press a key, such as Tab (9) or Enter (13)."""
        text = {"text": "\r"} if key == "Enter" else {}
        where = {"key": key, "code": key, "windowsVirtualKeyCode": code, "modifiers": 8 if shift else 0}
        self.do("Input.dispatchKeyEvent", type="keyDown", **where, **text)
        self.do("Input.dispatchKeyEvent", type="keyUp", **where)

    def picture(self) -> bytes:
        """Return the whole page as PNG."""
        shot = self.do("Page.captureScreenshot", captureBeyondViewport=True)
        return base64.b64decode(shot["data"])


@contextmanager
def browser(directory: Path, program: str | None = None) -> Iterator[Browser]:
    """Start a Chromium whose profile is in ``directory``, and yield an empty tab."""
    command = [program or found() or "chromium", *_FLAGS, f"--user-data-dir={directory}", "about:blank"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, process_group=0)
    try:
        tab = Browser(asyncio.run(_tab(directory / "DevToolsActivePort")))
        tab.connect()
        try:
            yield tab
        finally:
            tab.close()
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


async def _tab(written: Path) -> str:
    """Return the address of the first tab, when the browser has started."""
    async with asyncio.timeout(_START_S):
        while True:
            with suppress(OSError, IndexError, aiohttp.ClientError, StopIteration):
                port = written.read_text(encoding="utf-8").split()[0]
                async with aiohttp.ClientSession() as session:
                    async with session.get(f"http://127.0.0.1:{port}/json/list") as answer:
                        tabs = await answer.json()
                return str(next(tab["webSocketDebuggerUrl"] for tab in tabs if tab["type"] == "page"))
            await asyncio.sleep(0.1)
