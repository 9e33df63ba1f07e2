"""Speed of the steps, leaving out compilation, evaluations and saves."""

import time


class Clock:
    """Smoothed seconds per step and tokens or examples per second, 0 while unknown."""

    def __init__(self) -> None:
        self.seconds_per_step = 0.0
        self.per_second = 0.0
        self._mark = self._saved = time.perf_counter()
        self._ticks = 0

    def tick(self, steps: int, count: float) -> None:
        """So many steps, of so many tokens or examples, ended since the last tick or restart."""
        now = time.perf_counter()
        self._ticks += 1
        if self._ticks > 1:  # the first one compiled
            seconds = max(now - self._mark, 1e-9)
            share = 1.0 if self._ticks == 2 else 0.2
            self.seconds_per_step += share * (seconds / steps - self.seconds_per_step)
            self.per_second += share * (count / seconds - self.per_second)
        self._mark = now

    def saved(self) -> None:
        """Start anew after an evaluation or a save."""
        self._mark = self._saved = time.perf_counter()

    def steps_within(self, seconds: float) -> int:
        """Steps that take about so long; 1 while their speed is unknown."""
        return int(seconds / self.seconds_per_step) if self.seconds_per_step else 1

    def since_save(self) -> float:
        """Seconds since the last save."""
        return time.perf_counter() - self._saved
