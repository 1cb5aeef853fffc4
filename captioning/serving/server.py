"""The server under the HTTP API: it keeps idle and slow clients from taking its connections, and it stops in silence.

uvicorn speaks HTTP. What is added here is what it leaves to a proxy: a time for the headers of a request, and a number
of connections for each client. Behind a proxy, requests of each client are counted in their place.
"""

import asyncio
from collections import Counter
from functools import partial
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from captioning.serving.guard import Callers, Proxies

HEADER_SECONDS = 15.0  # in which the headers of a request must arrive, also those of the first one
PER_CLIENT = 16  # connections of one address at a time, or requests behind a proxy. A browser opens six
PER_PROXY = 256  # connections from a proxy, which stands for many clients


class Server(uvicorn.Server):
    """``stopping`` is set as soon as the server begins to stop, so that requests that wait can end by themselves.

    ``proxies``: what they say of callers is believed. None: those of this machine alone. ``grace``: seconds in which it
    goes on with what it has.
    """

    def __init__(self, app: Any, stopping: asyncio.Event, proxies: Proxies | None = None, grace: int = 5):
        proxies = proxies or Proxies()
        super().__init__(
            uvicorn.Config(
                Callers(app, proxies, PER_CLIENT),
                http=partial(_Protocol, proxies),  # type: ignore[arg-type]  # whatever makes a protocol will do
                forwarded_allow_ips=proxies.names,
                log_level="warning",
                lifespan="off",
                ws="none",
                timeout_graceful_shutdown=grace,
                server_header=False,
            )
        )
        self.stopping = stopping

    async def shutdown(self, sockets: Any = None) -> None:
        """Stop: no new connections, an answer to those who wait, and some seconds for what is being done."""
        self.stopping.set()
        await super().shutdown(sockets)


class _Protocol(H11Protocol):
    """One connection."""

    def __init__(self, proxies: Proxies, *args: Any, **named: Any):
        super().__init__(*args, **named)
        self._proxies = proxies

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._waiting: asyncio.TimerHandle | None = None
        self._address = self.client[0] if self.client else ""
        _connections[self._address] += 1
        if _connections[self._address] > (PER_PROXY if self._address in self._proxies else PER_CLIENT):
            transport.abort()
        else:
            self._wait_for_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        _connections[self._address] -= 1
        if not _connections[self._address]:
            del _connections[self._address]
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._stop_waiting()
        elif self._waiting is None:  # the headers of a further request have begun
            self._wait_for_headers()

    def _wait_for_headers(self) -> None:
        self._waiting = self.loop.call_later(HEADER_SECONDS, self.transport.abort)

    def _stop_waiting(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None


_connections: Counter[str] = Counter()  # open ones by the address of the client
