"""Calls with retries: asks again when, and only when, no answer was obtained."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import httpx
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, stop_after_delay
from tenacity.wait import wait_base, wait_random_exponential

from certify.blackbox.adapter import Adapter
from certify.blackbox.answers import Answer, NoAnswerError, RefusedError, ServiceError
from certify.blackbox.connections import Connections
from certify.blackbox.ledger import Ledger, Purpose
from certify.blackbox.pace import Pace
from certify.errors import UsageError


@dataclass(frozen=True)
class CallSettings:
    """How a service is called; none of it can change an answer.

    Args:
        concurrency: Calls in flight at most; also what a kill may pay twice.
        per_second: Calls a second at most; None: no limit.
        timeout: Seconds to wait for one answer.
        patience: Seconds after which a question that was never answered counts as "invalid".
        first_wait: Seconds that the first retry waits at most; doubled from retry to retry, jittered.

    Raises:
        UsageError: If a value is not positive.
    """

    concurrency: int = 8
    per_second: float | int | None = None
    timeout: float | int = 60.0
    patience: float | int = 300.0
    first_wait: float | int = 0.5

    def __post_init__(self) -> None:
        for key in ("concurrency", "timeout", "patience", "first_wait"):
            if not 0 < getattr(self, key) < float("inf"):
                raise UsageError(f"{key} must be positive, got {key}={getattr(self, key)}")
        if self.per_second is not None and not 0 < self.per_second < float("inf"):
            raise UsageError(f"the rate must be positive, got {self.per_second} calls a second")


@dataclass
class CallCounts:
    """What was sent: for progress, bills and tests."""

    attempts: int = 0
    answered: int = 0
    retries: int = 0


class _Wait(wait_base):
    """Exponential with full jitter, but never shorter than the service's Retry-After, up to the client's own patience."""

    def __init__(self, first: float, patience: float) -> None:
        self._patience = patience
        self._backoff = wait_random_exponential(multiplier=first, max=60.0)

    def __call__(self, retry_state: RetryCallState) -> float:
        error = retry_state.outcome.exception() if retry_state.outcome else None
        asked = error.after if isinstance(error, NoAnswerError) and error.after is not None else 0.0
        return max(min(asked, self._patience), self._backoff(retry_state))


class Caller:
    """Asks one service, on one event loop.

    Args:
        adapter: How it is asked.
        settings: Concurrency, rate, patience.
        transport: Of httpx, for tests.
        on_retry: Called with the reason of each retry.
        ledger: Counts what is sent, and may refuse it; None: no limit, nothing kept.
    """

    def __init__(
        self,
        adapter: Adapter,
        settings: CallSettings,
        *,
        transport: httpx.AsyncBaseTransport | None = None,
        on_retry: Callable[[str], None] | None = None,
        ledger: Ledger | None = None,
    ) -> None:
        self.adapter = adapter
        self.settings = settings
        self.ledger = ledger or Ledger()
        self.counts = CallCounts()
        self._pace = Pace(settings.per_second)
        self._on_retry = on_retry
        self._connections = Connections(settings.timeout, transport)

    async def check(self) -> str | None:
        """Ask the service about itself; see `Adapter.check`.

        Raises:
            ServiceError: If it cannot be used, or does not answer within a few seconds.
        """
        try:
            remark: str | None = await self._retrying(self._check, min(10.0, self.settings.patience))
            return remark
        except NoAnswerError as error:
            raise ServiceError(f"the service does not answer: {error.reason}") from None

    async def _check(self) -> str | None:
        with self._connections.one() as client:
            return await self.adapter.check(client)

    async def ask(
        self,
        prepared: Any,
        count: int,
        *,
        purpose: Purpose = Purpose.VOTE,
        keep: Callable[[Sequence[Answer]], None] | None = None,
    ) -> Sequence[Answer]:
        """Return one answer an image, "invalid" where the service refused or never answered.

        Args:
            prepared: What `Adapter.prepare` made of the images.
            count: Number of images.
            purpose: What they are sent for.
            keep: Given the answers, keeps them where the death of the process cannot reach them; until then the call counts
                as one without an answer.

        Raises:
            ServiceError: If the service cannot be used, or cannot be reached at all any more.
            BudgetSpentError: If the ledger does not allow the call, or its repetition.
        """
        answers: Sequence[Answer]
        call: int | None = None
        failed: NoAnswerError | None = None
        try:
            call, answers = await self._retrying(lambda: self._once(prepared, count, purpose), self.settings.patience)
        except NoAnswerError as error:
            if not error.reached:
                # The images were never seen, so that this cannot depend on them: stopping drops no vote.
                raise ServiceError(
                    f"{error.reason}; nothing was counted for the questions that could not be asked: "
                    "repeat the same command when the service is back"
                ) from None
            failed = error
            answers = [Answer(None, None, f"no answer within {self.settings.patience:g} s: {error.reason}")] * count
        if len(answers) != count:
            answers = [Answer(None, None, f"{len(answers)} answers for {count} images")] * count
        if keep is not None:
            keep(answers)
        if call is not None:
            self.ledger.settle(call)
        elif failed is not None:
            self.ledger.give_up(count, purpose, billed=failed.taken)
        self.counts.answered += count
        return answers

    async def _once(self, prepared: Any, count: int, purpose: Purpose) -> tuple[int, Sequence[Answer]]:
        """Make one call; return its place in the ledger, still open, with its answers."""
        await self._pace.turn()
        call = self.ledger.send(count, purpose)
        self.counts.attempts += 1
        try:
            with self._connections.one() as client:
                return call, await self.adapter.ask(client, prepared)
        except RefusedError as error:
            return call, [Answer(None, error.version, error.reason)] * count
        except (ServiceError, UsageError):
            self.ledger.undo(call)
            raise
        except NoAnswerError as error:
            # Any other end, by an interrupt for instance, leaves the call open: one that may have been billed.
            if error.taken:
                self.ledger.lose(call)
            else:
                self.ledger.undo(call)
            if error.after:
                # A service may ask for a day: nobody waits longer than patience allows.
                self._pace.pause(min(error.after, self.settings.patience))
            raise

    async def _retrying(self, call: Callable[[], Any], patience: float) -> Any:
        start = time.monotonic()
        try:
            return await call()  # nearly every call: without what retries need
        except NoAnswerError as error:
            failed: NoAnswerError | None = error
        async for attempt in AsyncRetrying(
            retry=retry_if_exception_type(NoAnswerError),
            wait=_Wait(self.settings.first_wait, patience),
            stop=stop_after_delay(max(patience - (time.monotonic() - start), 0.0)),
            before_sleep=self._note,
            reraise=True,
        ):
            with attempt:
                if failed is not None:
                    first, failed = failed, None
                    raise first
                return await call()
        raise AssertionError("unreachable: the loop returns or raises")

    def _note(self, state: RetryCallState) -> None:
        self.counts.retries += 1
        error = state.outcome.exception() if state.outcome else None
        if self._on_retry is not None and isinstance(error, NoAnswerError):
            self._on_retry(error.reason)

    async def close(self) -> None:
        """Close the connections."""
        await self._connections.close()
