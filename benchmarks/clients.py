"""Clients that ask a server of captions all at once. app.py and bombs.py use them."""

import threading
import time
from pathlib import Path

import requests


def ask(address: str, pictures: list[bytes], clients: int, times: int, attention: bool) -> tuple[list[float], int]:
    """Let ``clients`` ask at once, each ``times`` in a row.

    Returns the seconds of every answer, and the number of failures.
    """
    seconds: list[float] = []
    failures: list[int] = []
    together = threading.Barrier(clients)

    def one(number: int) -> None:
        with requests.Session() as session:
            together.wait()
            for turn in range(times):
                picture = pictures[(number + turn) % len(pictures)]
                began = time.perf_counter()
                response = session.post(
                    f"{address}/api/captions",
                    data=picture,
                    params={"attention": attention},
                    headers={"content-type": "image/jpeg"},
                    timeout=600,
                )
                if response.ok and response.json()["captions"]:
                    seconds.append(time.perf_counter() - began)
                else:
                    failures.append(response.status_code)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return seconds, len(failures)


def memory(pid: int) -> int | None:
    """The peak resident memory of a process in bytes. None if the system does not tell it."""
    status = Path(f"/proc/{pid}/status")
    return int(status.read_text().split("VmHWM:")[1].split()[0]) * 1024 if status.exists() else None
