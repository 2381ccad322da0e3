"""Read a line that the user types: with editing and Tab completion if stdin and stdout are the terminal."""

import sys
from collections.abc import Sequence

_DELIMITERS = " ,"
"""Where a word to complete begins: answers may be lists."""


def read_line(prompt: str, words: Sequence[str] = ()) -> str | None:
    """Prompt and return the line, without its end; None at the end of the input. Tab completes ``words``.

    The prompt goes to stderr. Only its last line goes through the editor, which has to redraw it.
    """
    above, _, last = prompt.rpartition("\n")
    sys.stderr.write(f"{above}\n" if above else "")
    sys.stderr.flush()
    if not sys.stdout.isatty():
        sys.stderr.write(last)
        sys.stderr.flush()
        line = sys.stdin.readline()
        return line.removesuffix("\n") if line else None
    _complete(words)
    try:
        return input(last)
    except EOFError:
        return None
    finally:
        _complete(())


def _complete(words: Sequence[str]) -> None:
    """Make Tab complete these words from now on."""
    import readline  # gives ``input`` editing; most commands never prompt

    def found(text: str, place: int) -> str | None:
        matching = [word for word in words if word.startswith(text)]
        return matching[place] if place < len(matching) else None

    readline.set_completer(found)
    readline.set_completer_delims(_DELIMITERS)
    readline.parse_and_bind("bind ^I rl_complete" if "libedit" in (readline.__doc__ or "") else "tab: complete")
    readline.set_auto_history(False)
