"""How fast a service is asked: a rate, and a common pause when it says "too many"."""

import asyncio

from certify.errors import UsageError


class Pace:
    """Spaces calls in time; all methods are for one event loop.

    Args:
        per_second: Calls a second at most; None: no limit of our own.

    Raises:
        UsageError: If the rate is not positive.
    """

    def __init__(self, per_second: float | int | None = None) -> None:
        if per_second is not None and not 0 < per_second < float("inf"):
            raise UsageError(f"the rate must be positive, got {per_second} calls a second")
        self._interval = 0.0 if per_second is None else 1.0 / per_second
        self._next = 0.0

    async def turn(self) -> None:
        """Wait until it is this caller's turn."""
        clock = asyncio.get_running_loop()
        start = max(self._next, clock.time())
        self._next = start + self._interval
        # Without any limit the wait is zero, and sleeping would only cost time.
        if start > clock.time():
            await asyncio.sleep(start - clock.time())

    def pause(self, seconds: float) -> None:
        """Let nobody have a turn for so long: the service's own wish counts for all calls, not just for one."""
        self._next = max(self._next, asyncio.get_running_loop().time() + seconds)
