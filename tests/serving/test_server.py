"""The server itself, over real sockets: slow and idle clients, foreign names, and its end."""

import asyncio
import logging
import socket
import threading
from contextlib import contextmanager

import pytest
from helpers import until

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
pytest.importorskip("python_multipart")

from captioning.base.errors import UserError
from captioning.serving import api, server
from captioning.serving.engine import Engine, Model
from captioning.serving.guard import Hosts, Proxies
from config import Config

UPLOAD = b"POST /api/captions HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: image/png\r\n"
UPLOAD += b"content-length: 999\r\n\r\nabc"


def never():
    raise AssertionError("no captioner is needed")


@contextmanager
def running(grace: int = 5):
    """The address of a server in a thread of its own, and what stops it and waits.

    ``grace``: seconds for open requests.
    """
    with socket.create_server(("127.0.0.1", 0)) as listening, Engine([Model("m", Config(), False, never)]) as engine:
        stopping = asyncio.Event()
        app = api.create_app(engine, None, Hosts("127.0.0.1", ["Pictures.example"]), stopping)
        made = server.Server(app, stopping, grace=grace)
        thread = threading.Thread(target=made.run, kwargs={"sockets": [listening]})
        thread.start()

        def stop(seconds=None):
            made.should_exit = True
            thread.join(seconds)
            return not thread.is_alive()

        try:
            until(lambda: made.started)
            yield listening.getsockname(), stop
        finally:
            stop()


def ask(address, text: bytes) -> bytes:
    """All that the server answers until it closes the connection."""
    with socket.create_connection(address, timeout=30) as client:
        client.sendall(text)
        return rest(client)


def rest(client: socket.socket) -> bytes:
    found = b""
    try:
        while part := client.recv(65536):
            found += part
    except ConnectionError:
        pass
    return found


def test_only_names_of_the_server_are_answered(caplog):
    with running() as (address, _):
        for name in ("localhost", "LOCALHOST:80", "127.0.0.1", "[::1]:8000", "pictures.example", "pictures.example."):
            answer = ask(
                address, b"GET /api/models HTTP/1.1\r\nconnection: close\r\nhost: " + name.encode() + b"\r\n\r\n"
            )
            assert b" 200 " in answer.splitlines()[0], (name, answer)
        for name in ("evil.example", "localhost.evil.example", "10.0.0.1", "[::1", "localhost:abc", "", "a b", "\xe9"):
            for path in (b"/", b"/api/models", b"/api/photos"):
                text = (
                    b"GET " + path + b" HTTP/1.1\r\nconnection: close\r\nhost: " + name.encode("latin1") + b"\r\n\r\n"
                )
                assert ask(address, text).split()[1] in (b"403", b"400"), name
    assert not caplog.records


def test_what_a_server_on_the_network_is_called():
    hosts = Hosts("0.0.0.0")
    for name in ("192.168.1.7", "localhost", socket.gethostname(), "::1", "fe80::1"):
        assert name in hosts
    for name in ("evil.example", "", None, "1.2.3.4.evil.example"):
        assert name not in hosts


def test_requests_that_are_no_http_are_refused_without_a_traceback(caplog):
    with running() as (address, _):
        for line in (
            b"content-length: abc",
            b"content-length: -1",
            b"content-length: 9\r\ncontent-length: 8",
            b"a" * 70_000,
        ):
            assert (
                ask(address, b"POST /api/captions HTTP/1.1\r\nhost: localhost\r\n" + line + b"\r\n\r\n").split()[1]
                == b"400"
            )
    assert all(record.exc_info is None and record.levelno < logging.ERROR for record in caplog.records)


@pytest.mark.slow
def test_clients_that_send_no_headers_are_cut_off(monkeypatch):
    monkeypatch.setattr(server, "HEADER_SECONDS", 1)
    with running() as (address, _):
        for begun in (b"", b"GET / HTT", b"GET / HTTP/1.1\r\nhost: localhost\r\n"):
            assert ask(address, begun) == b""
        with socket.create_connection(address, timeout=30) as client:
            client.sendall(b"GET /api/models HTTP/1.1\r\nhost: localhost\r\n\r\n")
            assert client.recv(1 << 20).startswith(b"HTTP/1.1 200")
            client.sendall(b"GET / HT")
            assert b"HTTP/1.1" not in rest(client)


def test_an_address_has_only_so_many_connections(monkeypatch):
    monkeypatch.setattr(server, "PER_PROXY", 3)
    with running() as (address, _):
        held = [socket.create_connection(address, timeout=30) for _ in range(3)]
        question = b"GET /api/models HTTP/1.1\r\nconnection: close\r\nhost: localhost\r\n\r\n"
        assert ask(address, question) == b""
        held.pop().close()
        assert until(lambda: ask(address, question))
        for client in held:
            client.close()
    assert not server._connections


def test_callers_behind_a_proxy_are_counted_one_by_one(monkeypatch):
    monkeypatch.setattr(server, "PER_CLIENT", 2)

    def of(*callers: bytes) -> bytes:
        lines = b"".join(b"x-forwarded-for: " + caller + b"\r\n" for caller in callers)
        return b"GET /api/health HTTP/1.1\r\nconnection: close\r\nhost: localhost\r\n" + lines + b"\r\n"

    with running() as (address, _):
        held = [socket.create_connection(address, timeout=30) for _ in range(2)]
        for client in held:
            client.sendall(UPLOAD.replace(b"\r\n", b"\r\nx-forwarded-for: 192.0.2.7\r\n", 1))
        # Whatever a caller says of itself, the proxy adds the truth behind it.
        refused = until(
            lambda: (answer := ask(address, of(b"192.0.2.9", b"192.0.2.7"))).split()[1] == b"429" and answer, 30
        )
        assert b"retry-after: 1" in refused
        assert b'"code":"too_many"' in refused
        for others in ((b"192.0.2.8",), ()):
            assert ask(address, of(*others)).split()[1] == b"200"
        for client in held:
            client.close()
        until(lambda: ask(address, of(b"192.0.2.7")).split()[1] == b"200")


def test_which_addresses_are_those_of_a_proxy():
    proxies = Proxies(["10.0.0.5", "192.168.7.1/24", "fd00::/8"])
    for address in ("127.0.0.1", "127.0.0.2", "::1", "", "10.0.0.5", "192.168.7.200", "fd00::5%eth0"):
        assert address in proxies
    for address in ("10.0.0.6", "192.168.8.1", "fe80::1", "proxy", None):
        assert address not in proxies
    for wrong, mentions in (("proxy", "--proxy: 'proxy' is no address; give"), ("0.0.0.0/0", "is every address")):
        with pytest.raises(UserError, match=mentions):
            Proxies([wrong])


def test_a_stalled_upload_is_cut_off(monkeypatch):
    monkeypatch.setattr(api, "STALL_SECONDS", 0.1)
    with running() as (address, _):
        assert b'"code":"too_slow"' in ask(address, UPLOAD)


def test_stalled_uploads_do_not_keep_it_from_stopping_in_silence(caplog, monkeypatch):
    for seconds in ("STALL_SECONDS", "RECEIVE_SECONDS"):  # far more than a slow machine takes to stop
        monkeypatch.setattr(api, seconds, 90)
    with running(grace=90) as (address, stop):
        clients = [socket.create_connection(address, timeout=30) for _ in range(20)]
        for client in clients:
            client.sendall(UPLOAD)
        idle = socket.create_connection(address, timeout=30)
        until(lambda: sum(server._connections.values()) == 21)
        assert stop(30)
        answers = [rest(client) for client in clients]
        for client in (*clients, idle):
            client.close()
    assert all(b'"code":"closing"' in answer or not answer for answer in answers)
    assert any(answers)
    assert not caplog.records


def test_an_upload_for_which_there_is_no_room(monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(api.tempfile, "SpooledTemporaryFile", full)
    with running() as (address, _):
        assert b'"code":"no_room"' in ask(address, UPLOAD.replace(b"999", b"3"))
