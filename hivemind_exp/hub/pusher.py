"""Push models to the hub in the background. A slow hub does not delay training, and a failing hub does not stop it."""

import json
import queue
import shutil
import threading
import time
from contextlib import suppress
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
from huggingface_hub.utils.tqdm import disable_progress_bars

from hivemind_exp import atomic_write
from hivemind_exp.config import HubConfig
from hivemind_exp.events import Emit, PhaseEvent, PushEvent, WarningEvent
from hivemind_exp.foreign_text import foreign
from hivemind_exp.hard_links import link_tree
from hivemind_exp.hub_client import limit_hub
from hivemind_exp.known_key import without_known_key
from hivemind_exp.stop import StopFlag

_PARTIAL = ".partial-"
_LAST = "pushed.json"
_ADAPTER = "adapter_config.json"
_POLL_S = 0.1


class Outbox:
    """Checkpoints' models with their cards, kept on disk until they are pushed.

    Models that were not pushed because of a crash or a hub outage wait here for the next run.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        root.mkdir(exist_ok=True)
        for leftover in root.glob(f"{_PARTIAL}*"):
            shutil.rmtree(leftover)

    def pack(self, round_: int, model: Path, card: str, base: str) -> None:
        """Add a model. Its weights are hard-linked, not copied, so the checkpoint may be pruned during the upload.

        ``base`` is the base model that an adapter names. It replaces the saved name, which may be a local path.
        """
        final = self._root / f"{round_:08d}"
        if not final.exists():
            partial = self._root / f"{_PARTIAL}{final.name}"
            link_tree(model, partial)
            # Write new files: writing into a linked file would change the checkpoint.
            atomic_write.write(partial / "README.md", card, None)
            adapter = partial / _ADAPTER
            if adapter.is_file():
                saved = json.loads(adapter.read_text(encoding="utf-8"))
                atomic_write.write(adapter, json.dumps(saved | {"base_model_name_or_path": base}, indent=2), None)
            partial.rename(final)

    def parcels(self) -> dict[int, Path]:
        """Return the waiting models by the number of rounds finished when each was saved, oldest first."""
        return {int(path.name): path for path in sorted(self._root.iterdir()) if path.name.isdigit()}

    def holds(self, round_: int, repo: str) -> bool:
        """Return whether the model after ``round_`` rounds is waiting here, or was the last one pushed to ``repo``."""
        last = None
        with suppress(OSError, ValueError, RecursionError):
            last = json.loads((self._root / _LAST).read_text(encoding="utf-8"))
        pushed = isinstance(last, dict) and (last.get("repo"), last.get("round")) == (repo, round_)
        return round_ in self.parcels() or pushed

    def done(self, round_: int, repo: str) -> None:
        """Record that the model after ``round_`` rounds was pushed. Remove it and all earlier ones."""
        atomic_write.write(self._root / _LAST, json.dumps({"schema": 1, "repo": repo, "round": round_}))
        for earlier, path in self.parcels().items():
            if earlier <= round_:
                shutil.rmtree(path)


class HubPusher:
    """Pushes models to one repository, one at a time, newest first.

    A failed push becomes a warning. The model stays in the outbox for the next push or the next run.
    """

    def __init__(self, hub: HubConfig, outbox: Outbox, token: str, emit: Emit) -> None:
        self._hub = hub
        self._outbox = outbox
        self._emit = emit
        self._token = token
        limit_hub()
        self._api = HfApi(token=token)
        self._orders: queue.Queue[None] = queue.Queue()
        disable_progress_bars()
        # This first entry creates the repository, even if no model is waiting: a token without write access fails now,
        # not after hours.
        self._orders.put(None)
        threading.Thread(target=self._work, name="hub", daemon=True).start()

    def due(self, round_: int, *, last: bool) -> bool:
        """Return whether the model after ``round_`` rounds should be pushed and has not been."""
        wanted = last or (round_ > 0 and self._hub.every > 0 and round_ % self._hub.every == 0)
        return wanted and not self._outbox.holds(round_, self._hub.repo)

    def push(self, round_: int, model: Path, card: str, base: str) -> None:
        """Add a checkpoint's model to the outbox and push it as soon as the previous push is done."""
        try:
            self._outbox.pack(round_, model, card, base)
        except OSError as error:
            self._warn(error, round_)
        else:
            self._orders.put(None)

    def finish(self, stop: StopFlag) -> None:
        """Wait until every push was tried. Raises ``StopRequested`` after a stop; the rest waits for the next run."""
        if self._orders.unfinished_tasks:
            self._emit(PhaseEvent(name=f"pushing to {self._hub.repo}"))
        while self._orders.unfinished_tasks:
            stop.check()
            time.sleep(_POLL_S)

    def _work(self) -> None:
        repo_exists = False
        while True:
            self._orders.get()
            round_ = None
            try:
                parcels = self._outbox.parcels()
                round_ = max(parcels, default=None)
                if not repo_exists:
                    self._api.create_repo(self._hub.repo, private=self._hub.private, exist_ok=True)
                    repo_exists = True
                if round_ is not None:
                    self._upload(round_, parcels[round_])
            except Exception as error:  # noqa: BLE001 - no hub or network error should stop training
                self._warn(error, round_)
            finally:
                self._orders.task_done()

    def _upload(self, round_: int, path: Path) -> None:
        begun, repo = time.perf_counter(), self._hub.repo
        commit = self._api.upload_folder(repo_id=repo, folder_path=path, commit_message=f"After round {round_}")
        self._outbox.done(round_, repo)
        seconds = round(time.perf_counter() - begun, 3)
        url = self._without_token(commit.commit_url)
        self._emit(PushEvent(round=round_, repo=repo, url=url, seconds=seconds))

    def _warn(self, error: Exception, round_: int | None) -> None:
        repo, reason = self._hub.repo, _reason(error).rstrip(".")
        text = f"cannot push to {repo} yet: {reason}. The next push or run tries again"
        if round_ is not None:
            text = f"cannot push the model of round {round_} to {repo}: {reason}. The next push or run tries again"
        self._emit(WarningEvent(code="push_failed", message=self._without_token(text)))

    def _without_token(self, text: str) -> str:
        """Remove the token, which the hub may repeat."""
        return without_known_key(text, self._token, "(the token)")


def _reason(error: BaseException) -> str:
    """Return a readable reason for an exception from the hub's library."""
    if isinstance(error, RuntimeError) and error.__cause__ is not None:
        return _reason(error.__cause__)  # the library wraps errors to say which file failed
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        if status in (401, 403):
            return (
                f"the hub rejected the token (HTTP {status}). Save one that has write access: "
                "swarmctl keys set huggingface"
            )
        said = foreign(error.server_message) if error.server_message else "no reason given"
        return f"the hub responded with HTTP {status}: {said}"
    if isinstance(error, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set"
    if any(kind.__name__ == "TransportError" for kind in type(error).__mro__):  # by name, whichever HTTP client it uses
        return f"cannot reach the hub: {foreign(str(error) or type(error).__name__)}"
    return f"{type(error).__name__}: {foreign(error)}"
