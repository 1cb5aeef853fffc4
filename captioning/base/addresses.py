"""Web addresses that a user typed: fetched within a total time, and never led into a private network. No Keras.

Who answers an address decides how fast, and where to look next. So neither a server that sends one byte a second nor
one that redirects to this machine may decide what this program does.
"""

import ipaddress
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urljoin, urlsplit

from captioning.base import project
from captioning.base.errors import UserError

if TYPE_CHECKING:
    import requests

_MOST_REDIRECTS = 5
_TIMEOUTS = (10.0, 30.0)  # seconds to connect, and between two parts of an answer
_PART = 1 << 16
# The environment variable that names whom a server may write to about our requests.
CONTACT = "CAPTIONING_CONTACT"
_UNWANTED = (403, 429)  # HTTP statuses of servers that know too little of a client, or are asked too often by it

T = TypeVar("T")


class Unfetched(Exception):
    """An address that cannot be fetched. The message says why."""


class NoAddress(Unfetched):
    """What should be a web address is none."""


class Lost(Unfetched):
    """The address leads to a place where this program does not go."""


def fetch(address: str, most: int, seconds: float) -> bytes:
    """What lies at an ``address`` that the user typed, at most ``most + 1`` bytes of it. Takes at most ``seconds``.

    Raises Unfetched.
    """
    ends = time.monotonic() + seconds

    def get() -> bytes:
        data = bytearray()
        with open_address(address) as answer:
            if answer.status_code >= 400:
                raise Unfetched(refusal(answer))
            while len(data) <= most and (part := answer.raw.read1(_PART, True)):
                if time.monotonic() >= ends:
                    raise _too_long(seconds)
                data += part
        return bytes(data[: most + 1])

    return within(seconds, get)


def user_agent() -> str:
    """How we name ourselves to servers: project, version, whom to write to, and the library that asks.

    The form is that of Wikimedia (https://foundation.wikimedia.org/wiki/Policy:User-Agent_policy), which refuses
    clients that name only a library. Raises UserError for a bad CAPTIONING_CONTACT.
    """
    import requests

    contact = os.environ.get(CONTACT, "").strip() or project.address()
    if contact and not re.fullmatch(r"[ -'*-~]+", contact):
        raise UserError(f"{CONTACT}: {contact!r} is no e-mail address or web address in ASCII, without ( and )")
    who = f"{project.NAME}/{project.version()}" + (f" ({contact})" if contact else "")
    return f"{who} python-requests/{requests.__version__}"


def refusal(answer: "requests.Response") -> str:
    """What an answer with an error says, and what may help."""
    text = f"the server answers {answer.status_code} {answer.reason}"
    if answer.status_code in _UNWANTED and not os.environ.get(CONTACT, "").strip():
        text += f"; some servers want to know whom to write to: set {CONTACT} to your e-mail or web address"
    return text


def within(seconds: float, work: Callable[[], T]) -> T:
    """The result of ``work``, which runs in a thread of its own.

    Raises what ``work`` raises, and Unfetched when time is up.
    """
    result: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            result.append(work())
        except BaseException as error:
            errors.append(error)

    # A daemon, so that a server that never ends its answer does not keep this program from ending.
    thread = threading.Thread(target=run, daemon=True, name="fetching")
    thread.start()
    thread.join(seconds)
    if errors:
        raise _unfetched(errors[0]) from None
    if not result:
        raise _too_long(seconds)
    return result[0]


def _too_long(seconds: float) -> Unfetched:
    return Unfetched(f"it took longer than {seconds:g} s")


def open_address(
    address: str, headers: Mapping[str, str] | None = None, timeouts: tuple[float, float] = _TIMEOUTS
) -> "requests.Response":
    """The answer to GET of an ``address`` that the user typed, whose body is still to be read from ``raw``.

    Redirects are followed, but from the internet none into a private network, such as this machine. Raises Unfetched,
    and what requests raises.
    """
    import requests

    headers = {"User-Agent": user_agent(), **(headers or {})}
    asked, private = address, _is_private(_host(address))
    for _ in range(_MOST_REDIRECTS + 1):
        answer = requests.get(asked, headers=headers, stream=True, timeout=timeouts, allow_redirects=False)
        if not answer.is_redirect:
            return answer
        answer.close()
        try:
            asked = urljoin(asked, answer.headers["location"])
        except ValueError:
            raise Lost("it leads to what is no address") from None
        host = _host(asked)
        if _is_private(host) and not (private and host == _host(address)):
            raise Lost(f"it leads to {host}, which is in a private network; type that address if you want it")
    raise Lost(f"it leads on more than {_MOST_REDIRECTS} times")


def _host(address: str) -> str:
    """The host in an address. Raises Unfetched if it is no http or https address."""
    try:
        parts = urlsplit(address)
        if parts.scheme in ("http", "https") and parts.hostname and "\0" not in address:
            _ = parts.port
            return parts.hostname
    except ValueError:
        pass
    raise NoAddress(f"{address[:200]!r} is not an http:// or https:// address")


def _is_private(host: str) -> bool:
    """Whether a host has an address that is not one of the internet. A host that is not known has none."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return False
    return any(not _of_internet(str(place[4][0])) for place in found)


def _of_internet(number: str) -> bool:
    address: Any = ipaddress.ip_address(number.split("%")[0])
    mapped = getattr(address, "ipv4_mapped", None) or getattr(address, "sixtofour", None)
    return address.is_global and not address.is_multicast and (mapped is None or mapped.is_global)


def _unfetched(error: BaseException) -> BaseException:
    """``error``, or Unfetched in its place if it is one of the network."""
    import requests
    import urllib3

    if isinstance(error, requests.RequestException | urllib3.exceptions.HTTPError | OSError | ValueError):
        kind = NoAddress if isinstance(error, ValueError) else Unfetched  # what requests raises for malformed addresses
        return kind(str(error) or type(error).__name__)
    return error
