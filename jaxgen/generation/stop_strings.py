"""Stop strings in text that comes in pieces."""

from collections.abc import Sequence

from jaxgen.errors import UserError


class StopStrings:
    """Lets text through up to the first stop string, which may straddle the pieces.

    What could be the beginning of a stop string is held back until the next piece tells.
    """

    def __init__(self, stops: str | Sequence[str] | None = None):
        """Watch for these strings; UserError for an empty one or one that is no text."""
        self.stops = (stops,) if isinstance(stops, str) else tuple(stops or ())
        if not all(isinstance(stop, str) and stop for stop in self.stops):
            raise UserError(f"`stop` must hold strings that are not empty, got {stops!r}")
        for stop in self.stops:
            try:
                stop.encode()
            except UnicodeEncodeError as error:
                raise UserError(
                    f"`stop` must hold Unicode text, got {stop!r} with half a surrogate pair; "
                    "no text ever holds that"
                ) from error
        self.found = False
        self._held = ""

    def push(self, text: str) -> str:
        """The part of the text so far that is certain and was not given out yet."""
        if self.found:
            return ""
        text = self._held + text
        # The one complete first, so that the cut into pieces does not matter.
        found = [
            (place + len(stop), place) for stop in self.stops if (place := text.find(stop)) >= 0
        ]
        if found:
            self.found, self._held = True, ""
            return text[: min(found)[1]]
        kept = max((_overlap(text, stop) for stop in self.stops), default=0)
        self._held = text[len(text) - kept :]
        return text[: len(text) - kept]

    def finish(self) -> str:
        """What was held back, now that no more text comes."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that a stop string begins with."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)
