"""app.py as a process of its own, and nginx before several of them: for tools, benchmarks and tests."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from captioning.base.errors import UserError
from config import ROOT

CONFIGURATION = ROOT / "deploy" / "nginx.conf"
SECONDS = 30  # that nginx gets to start


@contextmanager
def served(*options: str) -> Iterator[tuple[str, subprocess.Popen]]:
    """The address of an app.py with these options, and its process. It can caption; at the end it is stopped.

    The port is any free one unless ``options`` name one. Raises UserError when it does not start.
    """
    command = [sys.executable, str(ROOT / "app.py"), "--port", "0", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "CI": "1"}) as server:
        assert server.stdout
        try:
            found = next(filter(None, (re.match(r"captions at (\S+)", line) for line in server.stdout)), None)
            if found is None:
                raise UserError(f"app.py ended with status {server.wait()}; its message is above")
            yield found[1], server
        finally:
            server.send_signal(signal.SIGINT)
            server.communicate()  # reads the rest of its output before the pipe is closed


def nginx_found() -> str | None:
    """The path of nginx, or None. Debian keeps it in a folder that is not on every user's path."""
    return shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")


def free_ports(number: int) -> list[int]:
    """Ports of this machine that nobody uses just now."""
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    ports = [one.getsockname()[1] for one in held]
    for one in held:
        one.close()
    return ports


@contextmanager
def behind_nginx(servers: Sequence[int], folder: Path) -> Iterator[str]:
    """The address of an nginx with deploy/nginx.conf before servers of this machine.

    ``servers``: their two ports. ``folder``: a place for its files; access.log there says who was asked. Raises
    UserError if there is no nginx, or if it does not start.
    """
    nginx = nginx_found()
    if nginx is None:
        raise UserError("nginx: not found; apt-get install nginx")
    (port,) = free_ports(1)
    written = folder / "nginx.conf"
    written.write_text(tried_here(port, servers, folder), encoding="utf-8")
    main = f"daemon off; pid {folder}/nginx.pid; error_log {folder}/error.log;"
    if os.getuid() == 0:  # otherwise it would work as a user who may not write to the folder
        main += " user root;"
    with subprocess.Popen([nginx, "-e", str(folder / "error.log"), "-c", str(written), "-g", main]) as running:
        try:
            _wait_for(port, running, folder / "error.log")
            yield f"http://127.0.0.1:{port}"
        finally:
            running.terminate()


def tried_here(port: int, servers: Sequence[int], folder: Path) -> str:
    """The text of deploy/nginx.conf, with this machine's ports, and with its files in ``folder``."""
    text = CONFIGURATION.read_text(encoding="utf-8")
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    temporary = "".join(f"    {kind}_temp_path {folder}/{kind};\n" for kind in kinds)
    changes = {"http {\n": f"http {{\n{temporary}", "        listen 80;": f"        listen 127.0.0.1:{port};"}
    changes["/var/log/nginx/access.log"] = f"{folder}/access.log"
    changes |= {f"        server 127.0.0.1:800{i}": f"        server 127.0.0.1:{at}" for i, at in enumerate(servers, 1)}
    for before, after in changes.items():
        if text.count(f"\n{before}") + text.count(f" {before}") != 1:
            raise UserError(f"{CONFIGURATION}: {before.strip()!r} must stand there once, so that it can be tried")
        text = text.replace(before, after)
    return text


def _wait_for(port: int, running: subprocess.Popen, log: Path) -> None:
    """Wait until nginx listens. Raises UserError."""
    deadline = time.monotonic() + SECONDS
    while running.poll() is None and time.monotonic() < deadline:
        try:
            return socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            time.sleep(0.05)
    raise UserError(f"nginx did not start; {log} says why")
