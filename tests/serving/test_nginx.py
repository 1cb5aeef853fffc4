"""deploy/nginx.conf: its numbers are those of the app, and no answer is lost behind it."""

import re
import shutil
import signal
import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest
from helpers import jpegs, until

from captioning.base.errors import UserError
from captioning.serving.engine import PLACES
from config import POCKET
from tools import servers

TEXT = servers.CONFIGURATION.read_text()


def test_its_limits_are_those_of_the_app():
    pytest.importorskip("uvicorn")
    from captioning.serving import api, server

    def number(pattern: str) -> int:
        (found,) = set(re.findall(pattern, TEXT))
        return int(found)

    assert number(r"client_max_body_size +(\d+)m;") << 20 == api.MAX_BYTES
    assert number(r"client_body_buffer_size +(\d+)m;") << 20 == api.IN_MEMORY
    assert number(r"client_body_timeout +(\d+)s;") == api.STALL_SECONDS
    assert number(r"client_header_timeout +(\d+)s;") == server.HEADER_SECONDS
    assert number(r"limit_conn callers (\d+);") == server.PER_CLIENT
    assert f"more than {server.PER_CLIENT} requests" in TEXT
    assert f"more than {api.MAX_BYTES >> 20} MiB" in TEXT
    assert 0 < PLACES - number(r"max_conns=(\d+)") < 10


def test_a_configuration_that_cannot_be_tried_is_named(tmp_path, monkeypatch):
    torn = tmp_path / "nginx.conf"
    torn.write_text(TEXT.replace("127.0.0.1:8002", "10.0.0.11:8000"))
    monkeypatch.setattr(servers, "CONFIGURATION", torn)
    with pytest.raises(UserError, match=r"nginx\.conf: 'server 127\.0\.0\.1:8002' must stand there once"):
        servers.tried_here(1, (2, 3), tmp_path)


@pytest.fixture
def nginx() -> str:
    pytest.importorskip("fastapi")
    pytest.importorskip("uvicorn")
    return servers.nginx_found() or pytest.skip("needs nginx (Debian: apt-get install nginx)")


@pytest.mark.slow
def test_no_answer_is_lost_when_a_server_dies_or_is_replaced(nginx, tmp_path):
    import requests

    def caption(address: str, data: bytes) -> str:
        answer = requests.post(f"{address}/api/captions", files={"image": data}, timeout=100)
        assert answer.status_code == 200, answer.text
        return answer.json()["captions"][0]["caption"]

    def asked() -> list[list[str]]:
        """The servers that each request was sent to, one after the other."""
        lines = (tmp_path / "access.log").read_text().splitlines()
        return [re.search(r"asked (.*?): ", line)[1].split(", ") for line in lines]

    ports, sent = servers.free_ports(2), jpegs(8)
    names = [f"127.0.0.1:{port}" for port in ports]

    def server(port: int):
        return servers.served("--model", str(POCKET), "--beam-size", "1", "--port", str(port))

    with ExitStack() as stack, ThreadPoolExecutor(len(sent)) as clients:
        (first, process), (_, other) = [stack.enter_context(server(port)) for port in ports]
        address = stack.enter_context(servers.behind_nginx(ports, tmp_path))
        expected = [caption(first, data) for data in sent]

        def captions():
            return [clients.submit(caption, address, data) for data in sent]

        # One server hangs with half of the pictures, and dies.
        process.send_signal(signal.SIGSTOP)
        waiting = captions()
        until(lambda: sum(one.done() for one in waiting) == 4)
        process.kill()
        assert [one.result() for one in waiting] == expected
        assert sorted(asked()) == sorted([[names[1]]] * 4 + [[names[0], names[1]]] * 4)

        # It comes back, and the other is stopped while both work.
        stack.enter_context(server(ports[0]))
        before = len(asked())
        waiting = captions()
        until(lambda: any(one.done() for one in waiting))
        other.terminate()
        waiting += captions()
        assert [one.result() for one in waiting] == expected * 2
        assert other.wait(100) == 0
        assert {names[0]} < {servers_asked[0] for servers_asked in asked()[before:]}, "both had worked"


@pytest.mark.slow
def test_what_nginx_answers_itself_is_read_by_the_page(nginx, tmp_path):
    import requests

    with servers.behind_nginx(servers.free_ports(2), tmp_path) as address:
        nobody = requests.get(f"{address}/api/health", timeout=100)
        large = requests.post(f"{address}/api/captions", data=bytes(40 << 20), timeout=100)
        at = address.removeprefix("http://").split(":")
        # Uploads of another address that do not end. Sixteen are let in.
        upload = b"POST /api/captions HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n"
        with ExitStack() as stack:

            def hold() -> None:
                held = stack.enter_context(socket.create_connection(at, 100, ("127.0.0.2", 0)))
                held.sendall(upload)

            def one_more() -> bytes:
                hold()  # one that came while the last question was open may have been turned away
                with socket.create_connection(at, 100, ("127.0.0.2", 0)) as client:
                    client.sendall(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
                    return b"".join(iter(lambda: client.recv(65536), b""))

            for _ in range(15):
                hold()
            many = until(lambda: (answer := one_more()).split()[1] == b"429" and answer)
    assert (nobody.status_code, nobody.json()["error"]["code"], nobody.headers["retry-after"]) == (503, "busy", "2")
    assert (large.status_code, large.json()["error"]["code"]) == (413, "too_large")
    assert b"Retry-After: 1" in many
    assert b'"code": "too_many"' in many


@pytest.mark.slow
def test_the_lines_for_tls_are_right(nginx, tmp_path):
    openssl = shutil.which("openssl") or pytest.skip("needs openssl")
    certificate, key = tmp_path / "fullchain.pem", tmp_path / "privkey.pem"
    made = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=captions.example.org"]
    subprocess.run([*made, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    text = servers.tried_here(1, (2, 3), tmp_path).replace("listen 127.0.0.1:1;", "")
    lines = ("listen", "ssl_", "server {", "    listen", "    server_name", "    return", "}")
    text = re.sub(rf"^( +)# (?=(?:{'|'.join(map(re.escape, lines))}))(?!.*10\.0)", r"\1", text, flags=re.MULTILINE)
    text = text.replace("/etc/letsencrypt/live/captions.example.org", str(tmp_path))
    text = text.replace("listen 443", "listen 127.0.0.1:44300").replace("listen 80;", "listen 127.0.0.1:44301;")
    assert text.count("ssl_certificate ") == 1
    assert text.count("return 301") == 1
    (tmp_path / "nginx.conf").write_text(text)
    checked = subprocess.run(
        [nginx, "-t", "-e", tmp_path / "error.log", "-c", tmp_path / "nginx.conf", "-g", f"pid {tmp_path}/pid;"],
        capture_output=True,
        text=True,
    )
    assert checked.returncode == 0, checked.stderr
