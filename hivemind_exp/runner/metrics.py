"""``/metrics`` for Prometheus: what the events say, as metrics, while the node runs.

Names follow Prometheus's conventions: base units in the name, ``_total`` for counters, ``_ratio`` for shares from 0 to
1. Counters begin at 0 with each run; ``swarmctl_round`` and ``swarmctl_spent_usd`` are of the node's whole life. The
package ``prometheus-client`` is optional, so this module is imported only if a port is set.
"""

from __future__ import annotations

import errno
import shlex
import time
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Info, ProcessCollector, start_http_server

from hivemind_exp.config import Config
from hivemind_exp.errors import ConfigurationError
from hivemind_exp.events import Emit, Event
from hivemind_exp.intervals import wilson

_SOURCE = ("stage", "source")
_ROUND = "Rounds finished since the node was created"


class Metrics:
    """Receives a run's events, keeps the metrics up to date, and passes the events on."""

    def __init__(self, emit: Emit) -> None:
        self._emit = emit
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._metrics: dict[str, Any] = {}
        self._server: Any = None

    def __call__(self, event: Event, /) -> None:
        self._emit(event)
        fields = event.model_dump()
        self._gauge("last_event_timestamp_seconds", "When the node last reported something, in Unix time", time.time())
        take = getattr(self, f"_on_{event.event_name()}", None)
        if take is not None:
            take(fields)

    def serve(self, config: Config) -> None:
        """Listen on the configured port. Raises ``ConfigurationError`` if it cannot be used."""
        address, port = config.report.metrics_address, config.report.metrics_port
        try:
            self._server, _ = start_http_server(port, addr=address, registry=self.registry)
        except OSError as error:
            setting, other, reason = "address", "127.0.0.1", error.strerror or "the address is invalid"
            if error.errno in (errno.EADDRINUSE, errno.EACCES):
                setting, other = "port", str(port + 1 if 1024 <= port < 65535 else 9464)
                reason = "it is already in use" if error.errno == errno.EADDRINUSE else "it needs administrator rights"
            change = f"report.metrics_{setting}={other}"
            raise ConfigurationError(
                f"cannot serve metrics on {address}, port {port} (report.metrics_{setting}): {reason}",
                next=shlex.join(["swarmctl", "run", "--node", config.node.name, "--set", change]),
            ) from error

    def close(self) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()

    def _gauge(self, name: str, meaning: str, value: float | None, **labels: str) -> None:
        """Set a gauge. An unknown value, None, leaves it as it was."""
        if value is not None:
            self._of(Gauge, name, meaning, labels).set(value)

    def _count(self, name: str, meaning: str, more: float | None, **labels: str) -> None:
        if more is not None and more >= 0:
            self._of(Counter, name, meaning, labels).inc(more)

    def _of(self, kind: Any, name: str, meaning: str, labels: dict[str, str]) -> Any:
        if name not in self._metrics:
            self._metrics[name] = kind(f"swarmctl_{name}", meaning, tuple(labels), registry=self.registry)
        found = self._metrics[name]
        return found.labels(**labels) if labels else found

    def _on_start(self, event: dict[str, Any]) -> None:
        known = {name: event[name] for name in ("node", "model", "device", "dtype")}
        known["tasks"] = ",".join(event["tasks"])
        info = self._metrics.setdefault("node", Info("swarmctl_node", "The node", registry=self.registry))
        info.info({name: str(value) for name, value in known.items() if value is not None})
        self._gauge("parameters", "Weights of the model", event["parameters"])
        self._gauge("trainable_parameters", "Weights that are trained", event["trainable"])
        self._gauge("round", _ROUND, event["resumed_round"] or 0)
        self._gauge("rounds_planned", "Rounds planned since the node was created; 0 is without end", event["rounds"])

    def _on_round(self, event: dict[str, Any]) -> None:
        self._gauge("round", _ROUND, event["round"] + 1)
        self._count("rounds_total", "Rounds finished in this run", 1)
        for part, seconds in event["seconds"].items():
            self._count("round_seconds_total", "Time that rounds took, by part of the round", seconds, part=part)
        self._gauge("generated_tokens_per_second", "Tokens generated per second", event["tokens_per_second"])
        self._gauge("round_groups", "Groups of the latest round", event["groups"])
        self._gauge("round_useful_groups", "Groups of the latest round that teach something", event["different"])

    def _on_rollouts(self, event: dict[str, Any]) -> None:
        where = {name: event[name] for name in _SOURCE}
        self._count("completions_total", "Completions verified", event["count"], **where)
        self._count("correct_completions_total", "Completions verified as correct", event["correct"], **where)
        self._count("truncated_completions_total", "Completions cut off at the limit", event["truncated"], **where)
        self._count("completion_tokens_total", "Tokens of completions", event["tokens"], **where)
        self._gauge("reward", "Mean outcome in the latest round, from 0 to 1", event["reward"], **where)
        self._gauge("completion_length_tokens", "Mean length in the latest round", event["completion_length"], **where)
        for term, mean in (event["terms"] or {}).items():
            self._gauge("reward_term", "Mean of a term of the reward in the latest round", mean, **where, term=term)

    def _on_step(self, event: dict[str, Any]) -> None:
        source = event["source"]
        self._gauge("step", "Number of the latest optimizer step since the node was created", event["step"])
        self._gauge("loss", "Loss of the latest step", event["loss"])
        self._gauge("gradient_norm", "Norm of the latest step's gradient, before clipping", event["grad_norm"])
        self._gauge("learning_rate", "Learning rate of the latest step", event["learning_rate"])
        self._gauge("entropy_nats", "Entropy of the policy per token", event["entropy"], source=source)
        self._gauge(
            "source_gradient_norm", "Norm of the gradient of one source", event["source_grad_norm"], source=source
        )
        self._gauge("nll_nats", "Negative log-likelihood of others' text per token", event["nll"], source=source)

    def _on_eval(self, event: dict[str, Any]) -> None:
        self._gauge("accuracy_ratio", "Accuracy on held-out questions", event["accuracy"])
        low, high = wilson(event["accuracy"], event["questions"])
        self._gauge("accuracy_low_ratio", "Lower bound of the accuracy's 95 % interval", low)
        self._gauge("accuracy_high_ratio", "Upper bound of the accuracy's 95 % interval", high)
        self._gauge("accuracy_questions", "Held-out questions that the accuracy is measured on", event["questions"])
        self._gauge("evaluated_round", "Rounds finished at the latest evaluation", event["round"])

    def _on_checkpoint(self, event: dict[str, Any]) -> None:
        self._gauge("checkpoint_round", "Rounds finished at the latest checkpoint", event["round"])

    def _on_offload(self, event: dict[str, Any]) -> None:
        self._spent(event)

    def _on_spend(self, event: dict[str, Any]) -> None:
        self._spent(event)
        who = {name: event[name] for name in ("provider", "model")}
        self._count("requests_total", "Requests that cost money, or may have", event["requests"], **who)
        self._count("lost_completions_total", "Requested completions that were given up", event["lost"], **who)
        self._count("usd_total", "US dollars spent in this run", event["usd"], **who)
        for kind in ("prompt", "completion"):
            tokens = event[f"{kind}_tokens"]
            self._count("api_tokens_total", "Tokens that providers counted", tokens, **who, kind=kind)

    def _spent(self, event: dict[str, Any]) -> None:
        self._gauge("spent_usd", "US dollars spent since the node was created", event["usd_total"])
        self._gauge("reserved_usd", "US dollars reserved for requests in flight", event["usd_reserved"])
        self._gauge("cap_usd", "The most that the node may spend since it was created", event["usd_cap"])

    def _on_peers(self, event: dict[str, Any]) -> None:
        self._gauge("peers", "Peers heard from in the last two minutes", event["peers"])

    def _on_share(self, event: dict[str, Any]) -> None:
        self._count("shared_groups_total", "Groups shared with peers", event["groups"])
        self._count("shared_bytes_total", "Bytes of the bundles shared with peers", event["bytes"])

    def _on_warning(self, event: dict[str, Any]) -> None:
        self._count("warnings_total", "Warnings", 1, code=event["code"])

    def _on_error(self, event: dict[str, Any]) -> None:
        self._count("errors_total", "Errors", 1, code=event["code"])
