"""What stands before every request: only names of this server are answered, and nobody keeps it from stopping.

A page of another site can call this server through the browser of somebody who visits it: its name is made to lead to this
machine (DNS rebinding). The browser then names that site in the header Host, and is refused.
"""

import asyncio
import ipaddress
import re
import socket
from collections.abc import Awaitable, Callable, Collection
from typing import Any

from starlette.responses import JSONResponse

from captioning.serving.worker import Closed

# The names of this machine for itself.
LOCAL = ("127.0.0.1", "localhost", "::1")


class Hosts:
    """The names by which a server may be asked."""

    def __init__(self, bound: str, allowed: Collection[str] = ()):
        """``bound``: the address that it listens at. ``allowed``: further names, such as that of a proxy before it.

        A server that listens on the network also goes by the name of its machine and by numbers. No page of another site
        has a number of this machine for a name.
        """
        self._numbers = bound not in LOCAL
        self._names = {name.lower().rstrip(".") for name in (*LOCAL, *allowed)}
        if self._numbers:
            machine = socket.gethostname().lower()
            self._names |= {bound.lower(), machine, f"{machine.partition('.')[0]}.local", socket.getfqdn().lower()}

    def __contains__(self, name: object) -> bool:
        if not isinstance(name, str):
            return False
        name = name.lower().rstrip(".")
        return name in self._names or (self._numbers and _is_number(name))


def _is_number(name: str) -> bool:
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True


class Guard:
    """ASGI middleware that does this."""

    def __init__(self, app: Any, hosts: Hosts | None, stopping: asyncio.Event):
        """``hosts``: None: any name. ``stopping``: set when the server begins to stop."""
        self.app, self.hosts, self.stopping = app, hosts, stopping

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        name = _host(scope)
        if self.hosts is not None and name is not None and name not in self.hosts:
            shown = name[:100] or "NAME"
            message = f"this server is not called {shown}; ask at {LOCAL[0]}, or start it with --allowed-host {shown}"
            return await _problem(403, "wrong_host", message)(scope, receive, send)
        begun = False

        async def noted(message: dict[str, Any]) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self.app(scope, self._until_it_stops(receive), noted)
        except asyncio.CancelledError:  # the server has waited for five seconds
            if not self.stopping.is_set():
                raise
            if not begun:
                await _problem(503, "closing", "the server is stopping")(scope, receive, send)

    def _until_it_stops(self, receive: Callable[[], Awaitable[dict[str, Any]]]) -> Any:
        """The function ``receive``, which now raises Closed when the server stops before the body has arrived."""
        whole = False

        async def received() -> dict[str, Any]:
            nonlocal whole
            if whole:
                return await receive()
            arriving, ending = asyncio.ensure_future(receive()), asyncio.ensure_future(self.stopping.wait())
            try:
                await asyncio.wait({arriving, ending}, return_when=asyncio.FIRST_COMPLETED)
                if not arriving.done():
                    raise Closed("the server is stopping")
                message = arriving.result()
            finally:
                arriving.cancel()
                ending.cancel()
            whole = not message.get("more_body", False)
            return message

        return received


def _host(scope: dict[str, Any]) -> str | None:
    """The name in the header Host, without the port; None where there is no such header. Empty if it is no name."""
    headers = [value for key, value in scope["headers"] if key == b"host"]
    if not headers:
        return None
    found = _HOST.fullmatch(headers[0].decode("latin-1")) if len(headers) == 1 else None
    return found[1].strip("[]") if found else ""


_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[\w.-]+)(?::\d{1,5})?", re.ASCII)


def _problem(status: int, code: str, message: str) -> JSONResponse:
    return JSONResponse({"error": {"code": code, "message": message}}, status)
