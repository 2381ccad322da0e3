"""Say why a connection failed. Runs, ``doctor`` and key tests use the same words."""

import os
import ssl
from collections.abc import Iterator

from hivemind_exp.proxies import Proxy


def causes(error: BaseException | None, *, handled: bool = True) -> Iterator[BaseException]:
    """Yield an error and what caused it. ``handled``: also the errors during whose handling it was raised."""
    while error is not None:
        yield error
        error = error.__cause__ or (error.__context__ if handled else None)


def reason_for(error: BaseException) -> str | None:
    """Return why a connection failed: its encryption, or the system's reason. None if neither is known."""
    for cause in causes(error):
        # Libraries derive errors from these classes that lack their attributes.
        if isinstance(cause, ssl.SSLCertVerificationError) and (said := getattr(cause, "verify_message", None)):
            return f"its certificate is not trusted: {said}"
        if isinstance(cause, ssl.SSLError) and isinstance(said := getattr(cause, "reason", None), str):
            return f"the TLS handshake failed: {said.lower().replace('_', ' ')}"
    for cause in causes(error):
        if isinstance(cause, OSError) and not isinstance(cause, TimeoutError | ssl.SSLError):
            said = os.strerror(cause.errno) if cause.errno and cause.errno > 0 else cause.strerror
            if said:
                return said[:1].lower() + said[1:]
    return None


def through(proxy: Proxy | None) -> str:
    """Return the part of a message that names the proxy; empty without one."""
    return "" if proxy is None else f" through the proxy in ${proxy.variable}"
