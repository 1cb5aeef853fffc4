"""Fetching an address: a total time, a bounded size, and no redirect into a private network."""

import re
import socket
import threading
import time
import tomllib
from contextlib import contextmanager

import pytest
from helpers import ROOT

from captioning.base import addresses
from captioning.base.addresses import Unfetched, fetch
from captioning.base.errors import UserError


@contextmanager
def serving(*answers: bytes, pause: float = 0):
    """A server on this machine that gives each client the next of ``answers``, one byte at a time if there is a ``pause``."""
    left, stop = list(answers), threading.Event()

    def serve() -> None:
        while left:
            client, _ = listening.accept()
            with client:
                client.recv(65536)
                answer = left.pop(0)
                for part in [answer[i : i + 1] for i in range(len(answer))] if pause else [answer]:
                    try:
                        client.sendall(part)
                    except OSError:
                        break
                    if stop.wait(pause):
                        return

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/a.jpg"
        stop.set()


def asked(monkeypatch, contact: str | None = None) -> str:
    """The User-Agent that a server gets."""
    monkeypatch.delenv(addresses.CONTACT, raising=False)
    if contact is not None:
        monkeypatch.setenv(addresses.CONTACT, contact)
    heard = []
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            client, _ = listening.accept()
            with client:
                heard.append(client.recv(65536).decode("latin-1"))
                client.sendall(answer(b"pixels"))

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        assert fetch(f"http://127.0.0.1:{listening.getsockname()[1]}/a.jpg", 100, 30) == b"pixels"
        thread.join(30)
    (line,) = re.findall(r"^User-Agent: (.*)\r$", heard[0], flags=re.MULTILINE)
    return line


def answer(body: bytes = b"", status: str = "200 OK", **headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


def leads_to(place: str) -> bytes:
    return answer(status="302 Found", Location=place)


def test_what_the_user_typed_is_fetched_also_from_this_machine():
    with serving(answer(b"pixels")) as address:
        assert fetch(address, 100, 30) == b"pixels"
    with serving(leads_to("/b.jpg"), answer(b"pixels")) as address:
        assert fetch(address, 100, 30) == b"pixels"
    with serving(answer(b"x" * 1000)) as address:
        assert len(fetch(address, 10, 30)) == 11, "enough to see that it is too large"
    with serving(answer(status="404 Not Found")) as address, pytest.raises(Unfetched, match="answers 404 Not Found"):
        fetch(address, 100, 30)


@pytest.mark.parametrize(
    "slow", [answer(b"x" * 1000), b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 100], ids=["body", "headers"]
)
def test_a_server_that_sends_byte_after_byte_is_left(slow):
    with serving(slow, pause=0.02) as address:
        began = time.monotonic()
        with pytest.raises(Unfetched, match=r"longer than 0\.2 s"):
            fetch(address, 10_000, 0.2)
        assert time.monotonic() - began < 10, "all of the answer takes 12 or 20 seconds"


def test_an_answer_that_time_cut_short_is_no_answer(monkeypatch):
    monkeypatch.setattr(addresses, "within", lambda seconds, work: work())
    with serving(b"HTTP/1.0 200 OK\r\n\r\npixels") as address, pytest.raises(Unfetched, match="longer than 0 s"):
        fetch(address, 100, 0)


@pytest.mark.parametrize(
    "place",
    [
        *("http://localhost:1/", "http://127.1/", "http://[::1]/", "http://10.0.0.1/", "http://169.254.169.254/latest"),
        *(
            "http://[::ffff:127.0.0.1]/",
            "http://0.0.0.0/",
            "http://100.64.0.1/",
            "//192.168.0.1/x",
            "http://2130706433/",
        ),
    ],
)
def test_the_internet_does_not_lead_into_a_private_network(monkeypatch, place):
    real = addresses._is_private
    monkeypatch.setattr(addresses, "_is_private", lambda host: host != "127.0.0.1" and real(host))
    with serving(leads_to(place)) as address, pytest.raises(Unfetched, match="in a private network; type that address"):
        fetch(address, 100, 30)


@pytest.mark.parametrize("place", ["http://[::1", "file:///etc/passwd", "ftp://example.org/", "http://a:b/"])
def test_what_is_no_address_is_not_followed(place):
    with serving(leads_to(place)) as address, pytest.raises(Unfetched, match=r"address|URL|port|adapters"):
        fetch(address, 100, 30)
    with pytest.raises(Unfetched, match="not an http"):
        fetch(place, 100, 30)


def test_a_name_that_led_to_the_internet_does_not_lead_home_later(monkeypatch):
    led = iter([False, True])
    monkeypatch.setattr(addresses, "_is_private", lambda host: next(led))
    with serving(leads_to("/again")) as address, pytest.raises(Unfetched, match="private network"):
        fetch(address, 100, 30)


def test_redirects_in_a_circle_end():
    with serving(*[leads_to("/a.jpg")] * 6) as address, pytest.raises(Unfetched, match="more than 5 times"):
        fetch(address, 100, 30)


def test_nobody_there():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    for address in (f"http://127.0.0.1:{port}/", "http://a\0b/", "http://", "http:///x"):
        with pytest.raises(Unfetched):
            fetch(address, 100, 30)


# How we name ourselves
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("contact", ["me@example.org", "https://example.org/bot; me@example.org", None])
def test_servers_hear_who_asks_and_whom_to_write_to(monkeypatch, contact):
    with open(ROOT / "pyproject.toml", "rb") as file:
        about = tomllib.load(file)["project"]
    said = contact or next(iter(about.get("urls", {}).values()), None)
    wanted = f"{about['name']}/{about['version']}" + (f" ({said})" if said else "")
    assert re.fullmatch(re.escape(wanted) + r" python-requests/[\d.]+", asked(monkeypatch, contact))


@pytest.mark.parametrize("contact", ["me\r\nX-Evil: 1", "(me)", "m\u00e9@example.org", "a\tb"])
def test_a_contact_that_no_header_holds_is_named(monkeypatch, contact):
    monkeypatch.setenv(addresses.CONTACT, contact)
    with pytest.raises(UserError, match=r"CAPTIONING_CONTACT: .* is no e-mail address or web address"):
        fetch("http://127.0.0.1:1/", 100, 30)


@pytest.mark.parametrize("status", ["403 Forbidden", "429 Too Many Requests", "404 Not Found"])
def test_a_server_that_refuses_strangers_is_told_whom_to_write_to(monkeypatch, status):
    monkeypatch.delenv(addresses.CONTACT, raising=False)
    helps = not status.startswith("404")
    with serving(answer(status=status)) as address, pytest.raises(Unfetched) as error:
        fetch(address, 100, 30)
    assert ("set CAPTIONING_CONTACT to your e-mail" in str(error.value)) == helps
    monkeypatch.setenv(addresses.CONTACT, "me@example.org")
    with serving(answer(status=status)) as address, pytest.raises(Unfetched, match=f"answers {status}$"):
        fetch(address, 100, 30)
