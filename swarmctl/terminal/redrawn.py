"""Lines at the bottom of the terminal that are redrawn in place (rich), and that Ctrl-Z and typing do not break."""

from contextlib import suppress
from typing import Self, TextIO

from rich.console import Console, RenderableType
from rich.control import Control
from rich.live import Live
from rich.segment import ControlType, Segment
from rich.text import Text

from swarmctl.terminal.hidden_input import HiddenInput
from swarmctl.terminal.safe_text import folded


class Redrawn:
    """The lines. Typed characters are hidden during the block. Ctrl-Z suspends the program; ``fg`` draws them again.

    In the background (``bg``), nothing is drawn.
    """

    def __init__(self, stream: TextIO, *, erased: bool, when_suspended: str = "") -> None:
        """``erased``: whether the lines vanish at the end; ``when_suspended``: a sentence to print at Ctrl-Z."""
        self._stream, self._erased, self._when_suspended = stream, erased, when_suspended
        self._input = HiddenInput(stream, discard=True)
        self._begin()

    def _begin(self) -> None:
        """Forget where the lines were: either they have never been drawn, or the shell has written below them."""
        self._console = Console(file=self._stream, highlight=False, emoji=False, markup=False)
        self._live = Live(
            console=self._console,
            auto_refresh=False,
            transient=self._erased,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._drawn: RenderableType | None = None
        self._drawn_width = 0

    def __enter__(self) -> Self:
        self._input.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        try:
            self._stop()
        finally:
            self._input.__exit__(*error)

    @property
    def width(self) -> int:
        """Columns of the terminal."""
        return self._console.width

    def note(self, text: str) -> None:
        """Print a sentence above the lines."""
        with suppress(OSError):
            self._erase_wrapped()
            self._console.print(Text("\n".join(folded(text, max(20, self.width - 1)))))

    def was_interrupted(self) -> bool:
        """Suspend the program if Ctrl-Z was pressed; return whether it was, so that the lines have to be drawn again.

        Must be called often: until then, Ctrl-Z has no effect.
        """
        if self._input.suspending:
            self._stop()
            if self._when_suspended:
                self.note(self._when_suspended)
            self._input.suspend()
        elif not self._input.continued:  # by SIGSTOP and SIGCONT, without a chance to erase anything
            return False
        self._input.continued = False
        self._begin()
        return True

    def draw(self, lines: RenderableType) -> None:
        """Replace the lines."""
        if self._input.in_background:
            return
        self._input.hide()
        with suppress(OSError):
            self._live.start()
            self._erase_wrapped()
            self._live.update(lines, refresh=True)
            self._drawn, self._drawn_width = lines, self.width

    def _erase_wrapped(self) -> None:
        """Erase the rows by which the drawn lines grew when the terminal was narrowed, because it wrapped them.

        rich moves up by the number of lines that it has drawn, so the rows beyond would stay.
        """
        width = self.width
        if self._drawn is None or width >= self._drawn_width:
            return
        options = self._console.options.update_width(self._drawn_width)
        lines = self._console.render_lines(self._drawn, options, pad=False)[: options.size.height]
        more = sum(max(0, Segment.get_line_length(line) - 1) // width for line in lines)
        self._drawn_width = width
        up = ((ControlType.CURSOR_UP, 1), (ControlType.ERASE_IN_LINE, 2))
        self._console.control(Control(ControlType.CARRIAGE_RETURN, (ControlType.ERASE_IN_LINE, 2), *up * more))

    def _stop(self) -> None:
        with suppress(OSError):
            self._erase_wrapped()
            self._live.stop()
        self._drawn = None
