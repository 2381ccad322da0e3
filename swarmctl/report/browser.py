"""Open an address in the user's browser."""

import webbrowser


def open_in_browser(address: str) -> bool:
    """Open an address in the user's browser. Return whether there is one."""
    try:
        return webbrowser.open(address)
    except (webbrowser.Error, OSError):
        return False
