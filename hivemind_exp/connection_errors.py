"""Say why a connection failed. Runs, ``doctor`` and key tests use the same words."""

import os
import ssl
from collections.abc import Iterator, Mapping

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


TRUST = "If its authority is your organization's, name the file with that authority's certificate in $SSL_CERT_FILE"
"""What helps with a certificate that is not trusted."""


def is_untrusted(error: BaseException) -> bool:
    """Whether a connection failed because the server's certificate is not trusted."""
    return any(isinstance(cause, ssl.SSLCertVerificationError) for cause in causes(error))


def trust_command(environment: Mapping[str, str]) -> str:
    """Return the command that names the authority's certificate. REQUESTS_CA_BUNDLE is only read by other programs."""
    bundle = environment.get("REQUESTS_CA_BUNDLE") and not environment.get("SSL_CERT_FILE")
    return 'export SSL_CERT_FILE="$REQUESTS_CA_BUNDLE"' if bundle else "export SSL_CERT_FILE=AUTHORITY.pem"


def through(proxy: Proxy | None) -> str:
    """Return the part of a message that names the proxy; empty without one."""
    return "" if proxy is None else f" through the proxy in ${proxy.variable}"
