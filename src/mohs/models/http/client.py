"""Many questions in flight at once, and no more than was agreed: a rate, a budget, retries, a breaker."""

from __future__ import annotations

import asyncio
import itertools
import random
import threading
import time
import weakref
from collections.abc import Coroutine, Sequence
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np

from mohs.errors import Missing, ModelError, MohsError, RunFailed
from mohs.models.http import wire
from mohs.models.http.endpoint import Endpoint
from mohs.store.answers import Answers

if TYPE_CHECKING:
    import httpx

T = TypeVar("T")
AGAIN = (408, 425, 429)  # and 500 on: what may be otherwise a moment later
BURST = 0.1
SHUT = (401, 403, 404, 405, 407)  # what no example will open
REFUSED = "a guard refused the query"


class Query(NamedTuple):
    """key: of the answer, from the exact bytes and the number of the draw; part: the example's bytes in a body."""

    key: bytes
    part: bytes


class Reply(NamedTuple):
    """Logits [classes] float64, or why there are none."""

    scores: np.ndarray | None
    reason: str = ""


class Client:
    """The one way to an endpoint. rate: queries a second, None without limit."""

    def __init__(self, endpoint: Endpoint, answers: Answers, rate: float | None = None) -> None:
        try:
            import httpx
        except ImportError:
            raise Missing("httpx", "serve", "an HTTP endpoint") from None
        self.endpoint, self.answers, self.rate = endpoint, answers, rate
        self.met = False  # whether there ever was an answer: before, what looks hopeless is not tried again
        self.latencies: list[float] = []  # seconds of each answered request
        self._failing, self._trips, self._next = 0, 0, 0.0
        names = range(max(1, len(endpoint.accounts)))
        self._headers = [{name: endpoint.filled(value, i) for name, value in endpoint.headers.items()} for i in names]
        self._paused, self._used = [0.0 for _ in names], [0 for _ in names]  # of each account
        most = httpx.Limits(max_connections=endpoint.concurrency, max_keepalive_connections=endpoint.concurrency)
        self._http = httpx.AsyncClient(timeout=endpoint.timeout, limits=most, trust_env=False)
        self._flying, self._trial = asyncio.Semaphore(endpoint.concurrency), asyncio.Lock()
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True, name="mohs-http").start()
        self._end = weakref.finalize(self, _end, self._loop, self._http, answers)

    def ask(self, queries: Sequence[Query]) -> list[Reply]:
        """The replies to queries, in order; what is known, or stands twice, is not asked again. Raises RunFailed where the
        endpoint is down or shut, ModelError where it always was."""
        started = time.monotonic()
        known = {key: self.answers.find(key) for key, _ in queries}
        new = list({query.key: query for query in queries if known[query.key] is None}.values())
        size = self.endpoint.batch
        groups = [new[at : at + size] for at in range(0, len(new), size)]
        replies = self._run(self._gather(groups)) if groups else {}
        failed = sum(query.key in replies and replies[query.key].scores is None for query in queries)
        answered = sum(reply.scores is not None for reply in replies.values())
        refused = sum(reply.reason == REFUSED for reply in replies.values())
        self.answers.count(
            asked=len(queries),
            answered=answered,
            failed=failed,
            refused=refused,
            cached=len(queries) - answered - failed,
            seconds=time.monotonic() - started,
        )
        return [replies[key] if (raw := known[key]) is None else _known(raw) for key, _ in queries]

    def close(self) -> None:
        """Hang up; the answers are kept where they were moved to. Called where nobody refers to the client any more, too."""
        self._end()

    # inside, on the loop

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    async def _gather(self, groups: list[list[Query]]) -> dict[bytes, Reply]:
        """Send what the budget covers, in order, so that where it ends does not depend on who answers first."""
        left = self.answers.left
        last = sum(left is None or total <= left for total in itertools.accumulate(map(len, groups)))
        replies = {query.key: Reply(None, self._spent()) for group in groups[last:] for query in group}
        tasks = [asyncio.ensure_future(self._settled(group)) for group in groups[:last]]
        try:
            for part in await asyncio.gather(*tasks):
                replies |= part
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return replies

    async def _settled(self, group: list[Query]) -> dict[bytes, Reply]:
        keys = [query.key for query in group]
        async with self._flying:
            got = await self._persist(group)
        if isinstance(got, str):
            if got == REFUSED:
                self.answers.settle(keys, [b"" for _ in keys])
            else:
                self.answers.forget(keys)
            return {key: Reply(None, got) for key in keys}
        self.answers.settle(keys, [row.tobytes() for row in got])
        return {key: Reply(row) for key, row in zip(keys, got, strict=True)}

    async def _persist(self, group: list[Query]) -> np.ndarray | str:
        """Try until there is an answer, or a reason why there will be none."""
        retry = self.endpoint.retry
        for number in itertools.count(1):
            got = await self._guarded(group)
            if isinstance(got, np.ndarray):
                return got
            if got.reason == REFUSED:
                return REFUSED
            if not got.again or number == retry.attempts:
                return got.reason if number == 1 else f"{got.reason} (attempt {number})"
            await asyncio.sleep(random.uniform(0, min(retry.longest, retry.first * 2 ** (number - 1))))
        raise AssertionError

    async def _guarded(self, group: list[Query]) -> np.ndarray | _Failure:
        """One attempt; while the breaker is open, one at a time after a pause."""
        retry = self.endpoint.retry
        if self._failing < retry.breaker:
            return await self._send(group)
        async with self._trial:
            if self._failing >= retry.breaker:
                if self._trips == retry.trips:
                    raise RunFailed(f"{self._name} is down: {self._failing} failures in a row; resume the run when it is back")
                await asyncio.sleep(retry.pause * 2**self._trips)
                self._trips += 1
            return await self._send(group)

    async def _send(self, group: list[Query]) -> np.ndarray | _Failure:
        import httpx

        account = await self._turn(len(group))
        if not self.answers.reserve([query.key for query in group]):
            return _Failure(self._spent(), again=False, alive=True)
        started = time.monotonic()
        try:
            sent = wire.request(self.endpoint, [query.part for query in group])
            url = self.endpoint.filled(self.endpoint.url)
            headers = {**self._headers[account], **sent.pop("headers", {})}
            response = await self._http.request(self.endpoint.method, url, headers=headers, **sent)
        except httpx.TimeoutException:
            return self._failed(_Failure(f"no answer within {self.endpoint.timeout:g} s"))
        except httpx.TransportError as error:
            if not self.met and isinstance(error, httpx.ConnectError):
                raise ModelError(f"{self._name} cannot be reached: {self.endpoint.masked(str(error))}") from None
            return self._failed(_Failure(f"{type(error).__name__}: {self.endpoint.masked(str(error))}"))
        except httpx.HTTPError as error:
            raise ModelError(f"{self._name} cannot be asked: {self.endpoint.masked(str(error))}") from None
        self._obey(response, account)
        got = self._read(response, len(group))
        if isinstance(got, _Failure):
            return self._failed(got)
        self.met, self._failing, self._trips = True, 0, 0
        self.latencies.append(time.monotonic() - started)
        return got

    def _read(self, response: httpx.Response, n: int) -> np.ndarray | _Failure:
        code, shown = response.status_code, self.endpoint.masked(response.text)
        told = f"{self._name} answered {code}: {shown!r}"
        if self.endpoint.guard is not None and code in self.endpoint.guard.refuses and (self.met or code not in SHUT):
            return _Failure(REFUSED, again=False, alive=True)
        if code in SHUT:
            raise self._shut(told, self._why_shut(code))
        if response.is_success:
            try:
                return wire.scores(self.endpoint, response.content, n)
            except wire.Malformed as error:
                html = shown.lstrip().startswith("<")
                if html and not self.met:
                    raise self._shut(told, ": that is a page for people; expected JSON") from None
                return _Failure(f"{error}; received {shown!r}")
        again = code in AGAIN or code >= 500
        return _Failure(f"answered {code}: {shown!r}", again=again, alive=code == 429 or not again)

    def _failed(self, failure: _Failure) -> _Failure:
        self._failing = 0 if failure.alive else self._failing + 1
        return failure

    def _why_shut(self, code: int) -> str:
        if self.endpoint.guard is not None and code in self.endpoint.guard.refuses:
            return (
                ": its guard refuses the very first query, and may have seen these examples or this client before; or it asks "
                "for authorisation. Take other examples (--seed, --data), or wait until the guard forgets"
            )
        return ": it asks for authorisation, or this is refused" if code in (401, 403, 407) else ""

    def _shut(self, told: str, why: str) -> MohsError:
        return RunFailed(f"{told}{why}; resume the run when that is mended") if self.met else ModelError(f"{told}{why}")

    def _obey(self, response: httpx.Response, account: int) -> None:
        """All of an account wait as long as one was told to."""
        asked = response.headers.get("Retry-After")
        if asked is None:
            return
        try:
            seconds = float(asked) if asked.strip().isdigit() else parsedate_to_datetime(asked).timestamp() - time.time()
        except ValueError:
            return
        until = time.monotonic() + min(seconds, self.endpoint.retry.longest)
        self._paused[account] = max(self._paused[account], until)

    async def _turn(self, n: int) -> int:
        """The account whose turn it is, which is the one that asked least of those that need not wait, once there are tokens for
        n queries: `rate` are filled in a second, and what BURST seconds bring is saved up at most."""
        while (wait := min(self._paused) - (now := time.monotonic())) > 0:
            await asyncio.sleep(wait)
        account = min((i for i, until in enumerate(self._paused) if until <= now), key=lambda i: self._used[i])
        self._used[account] += n
        if self.rate is not None:
            now = time.monotonic()
            due = max(self._next, now - BURST)
            self._next = due + n / self.rate
            await asyncio.sleep(max(0.0, due - now))
        return account

    def _spent(self) -> str:
        return f"the total budget of {self.answers.limit} queries is spent"

    @property
    def _name(self) -> str:
        return f"the endpoint {self.endpoint.url}"


def _known(raw: bytes) -> Reply:
    return Reply(np.frombuffer(raw, dtype=np.float64)) if raw else Reply(None, REFUSED)


class _Failure(NamedTuple):
    """again: it may go better later. alive: no sign that the endpoint is down."""

    reason: str
    again: bool = True
    alive: bool = False


def _end(loop: asyncio.AbstractEventLoop, http: httpx.AsyncClient, answers: Answers) -> None:
    """Close the connections, the loop with its thread, and the answers."""
    asyncio.run_coroutine_threadsafe(_closed(http), loop).result(5)
    loop.call_soon_threadsafe(loop.stop)
    while loop.is_running():
        time.sleep(0.001)
    loop.close()
    answers.close()


async def _closed(http: httpx.AsyncClient) -> None:
    await http.aclose()
