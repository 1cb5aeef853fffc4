"""What stands before every request: names of this server, origins of pages elsewhere, callers, and a stop that comes.

A page of another site can call this server through the browser of somebody who visits it: its name is made to lead to
this machine (DNS rebinding). The browser then names that site in the header Host, and is refused.

A page of another origin may use the API only where it is allowed to (CORS,
https://fetch.spec.whatwg.org/#http-cors-protocol).

A proxy stands for many callers. It names the caller of each request in the header X-Forwarded-For. Anybody can write
that header, so it is believed of known proxies alone.
"""

import asyncio
import ipaddress
import re
import socket
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any

from starlette.responses import JSONResponse, Response

from captioning.base.errors import UserError
from captioning.serving.worker import Closed

# The names of this machine for itself.
LOCAL = ("127.0.0.1", "localhost", "::1")


class Hosts:
    """The names by which a server may be asked."""

    def __init__(self, bound: str, allowed: Collection[str] = ()):
        """``bound``: the address that it listens at. ``allowed``: further names, such as that of a proxy before it.

        A server that listens on the network also goes by the name of its machine and by numbers. No page of another
        site has a number of this machine for a name.
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


class Origins:
    """The origins of pages elsewhere that may use the API: scheme, name and port of their addresses."""

    def __init__(self, allowed: Collection[str]):
        """``allowed``: origins, or ``*`` for all. Raises UserError for what is none."""
        self.is_open = "*" in allowed
        self._names = {_origin(name) for name in allowed if name != "*"}

    def __contains__(self, origin: object) -> bool:
        return self.is_open or origin in self._names


def _origin(text: str) -> str:
    """An origin as browsers write it. Raises UserError."""
    found = _ORIGIN.fullmatch(text.lower())
    if found and int(found["port"] or 1) in range(1, 65536):
        usual = _PORTS.get(found["scheme"]) == found["port"]  # browsers leave it out
        return f"{found['scheme']}://{found['host']}" + (f":{found['port']}" if found["port"] and not usual else "")
    reason = "is no origin; give scheme, name and port alone, such as https://example.org or http://localhost:3000"
    if text.lower() == "null":
        reason = "is the origin of all files and of pages in sandboxes, so it names nobody; serve your page over HTTP"
    raise UserError(f"--allow-origin: {text!r} {reason}")


_ORIGIN = re.compile(
    r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?P<host>\[[0-9a-f:.]+\]|[a-z0-9]([a-z0-9._-]*[a-z0-9])?)(:(?P<port>\d{1,5}))?",
    re.ASCII,
)
_PORTS = {"http": "80", "https": "443"}


class CrossOrigin:
    """ASGI middleware that lets pages of some other origins use the API."""

    def __init__(self, app: Any, origins: Origins):
        self.app, self.origins = app, origins

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] != "http" or not scope["path"].startswith("/api/"):
            return await self.app(scope, receive, send)
        asked = {key.decode("latin-1"): value.decode("latin-1") for key, value in scope["headers"]}
        origin = asked.get("origin")
        headers = {} if self.origins.is_open else {"vary": "Origin"}
        if origin is not None and origin in self.origins:
            headers["access-control-allow-origin"] = "*" if self.origins.is_open else origin
            headers["access-control-expose-headers"] = "Retry-After"
        if scope["method"] == "OPTIONS" and origin is not None and "access-control-request-method" in asked:
            return await self._preflight(origin, asked, headers)(scope, receive, send)

        async def with_headers(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *((k.encode(), v.encode()) for k, v in headers.items())]
            await send(message)

        await self.app(scope, receive, with_headers)

    def _preflight(self, origin: str, asked: dict[str, str], headers: dict[str, str]) -> Response:
        """The answer to a browser that asks whether a page may send a request."""
        if origin not in self.origins:
            shown = origin[:100]
            message = f"pages of {shown} may not use this server; start it with --allow-origin {shown} if they should"
            return _problem(403, "wrong_origin", message, headers)
        headers |= {"access-control-allow-methods": "GET, POST", "access-control-allow-headers": "Content-Type"}
        headers["access-control-max-age"] = "600"
        if asked.get("access-control-request-private-network") == "true":
            headers["access-control-allow-private-network"] = "true"
        return Response(status_code=204, headers=headers)


class Proxies:
    """The addresses of proxies, whose word about callers is believed. Those of this machine are always among them."""

    def __init__(self, named: Collection[str] = ()):
        """``named``: addresses such as 10.0.0.5, and networks such as 10.0.0.0/24. Raises UserError for others."""
        self._networks = [ipaddress.ip_network(network) for network in ("127.0.0.0/8", "::1")]
        self._networks += map(_network, named)
        self.names = list(map(str, self._networks))

    def __contains__(self, address: object) -> bool:
        if not isinstance(address, str):
            return False
        try:
            number = ipaddress.ip_address(address.partition("%")[0])
        except ValueError:
            return not address  # a socket of this machine that has no address
        return any(number in network for network in self._networks)


def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    """The network that a user named. Raises UserError."""
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise UserError(
            f"--proxy: {text!r} is no address; give the number of the proxy, such as 10.0.0.5, or of its network, such "
            "as 10.0.0.0/24"
        ) from None
    if not network.prefixlen:
        raise UserError(f"--proxy: {text} is every address, so every caller could say who it is; name the proxy alone")
    return network


class Callers:
    """ASGI middleware that gives each caller behind a proxy only so many requests at a time."""

    def __init__(self, app: Any, proxies: Proxies, most: int):
        """``proxies``: these are not counted. They ask for themselves only to see whether the server works."""
        self.app, self.proxies, self.most = app, proxies, most
        self._asking: Counter[str] = Counter()  # requests in work by the address of the caller

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        caller = scope["client"][0] if scope["type"] == "http" and scope.get("client") else ""
        if caller in self.proxies:
            return await self.app(scope, receive, send)
        if self._asking[caller] >= self.most:
            message = f"more than {self.most} requests from one address at a time; try again in 1 s"
            return await _problem(429, "too_many", message, {"retry-after": "1"})(scope, receive, send)
        self._asking[caller] += 1
        try:
            await self.app(scope, receive, send)
        finally:
            self._asking[caller] -= 1
            if not self._asking[caller]:
                del self._asking[caller]


class Guard:
    """ASGI middleware that answers only to names of this server, and that lets it stop."""

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
        except asyncio.CancelledError:  # the server has waited long enough
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


def _problem(status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    return JSONResponse({"error": {"code": code, "message": message}}, status, headers)
