"""Fetching a file from a local server: resumed, verified, atomic, cached; refusals in one sentence."""

import hashlib
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from nuriwake.core import download
from nuriwake.core.download import fetch
from nuriwake.core.errors import RunError

CONTENT = np.random.default_rng(0).bytes(300_000)
SHA = hashlib.sha256(CONTENT).hexdigest()


class Handler(BaseHTTPRequestHandler):
    """Serves `CONTENT`; `server.breaks` is after how many bytes it hangs up, `server.asked` the ranges asked for."""

    def do_GET(self):
        start = int((self.headers.get("Range") or "bytes=0-")[6:-1])
        self.server.asked.append((self.path, start))
        if self.path.endswith("missing"):
            self.send_error(404)
            return
        if self.path.endswith("linked"):
            self.send_response(302)
            self.send_header("X-Linked-Etag", f'"{self.server.linked}"')
            self.send_header("Location", f"{self.server.address}/elsewhere")
            self.end_headers()
            return
        if start and self.headers.get("If-Range") != self.server.tag:
            start = 0
        self.send_response(206 if start else 200)
        self.send_header("ETag", self.server.tag)
        body, size = self.server.content[start:], len(self.server.content)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: self.server.breaks])

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.asked, server.breaks, server.tag, server.content = [], None, '"one"', CONTENT
    server.address = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_a_broken_download_goes_on_where_it_stopped(server, tmp_path):
    target, server.breaks = tmp_path / "a" / "file.pth", 100_000
    with pytest.raises(RunError, match=r"broke off after 100000 of 300000 bytes.*save it as"):
        fetch(f"{server.address}/file.pth", target, sha256=SHA)
    assert not target.exists()
    server.breaks = None
    assert fetch(f"{server.address}/file.pth", target, sha256=SHA).read_bytes() == CONTENT
    assert [start for _, start in server.asked] == [0, 100_000]
    fetch(f"{server.address}/file.pth", target, sha256=SHA)
    assert len(server.asked) == 2
    assert [path.name for path in target.parent.iterdir()] == ["file.pth"]


def test_a_file_that_changed_meanwhile_is_fetched_anew(server, tmp_path):
    target, server.breaks = tmp_path / "file.pth", 100_000
    with pytest.raises(RunError):
        fetch(f"{server.address}/file.pth", target)
    server.breaks, server.tag, server.content = None, '"two"', CONTENT[::-1]
    assert fetch(f"{server.address}/file.pth", target).read_bytes() == CONTENT[::-1]


def test_another_checksum_and_absent_files_are_refused(server, tmp_path):
    target = tmp_path / "file.pth"
    with pytest.raises(RunError, match=r"what came has the sha256 [0-9a-f]{16}\.\.\., promised is deadbeef"):
        fetch(f"{server.address}/file.pth", target, sha256="deadbeef")
    assert not list(tmp_path.iterdir())
    with pytest.raises(RunError, match=r"404.*give the file itself"):
        fetch(f"{server.address}/missing", target)


def test_a_checksum_that_the_server_states_is_compared(server, tmp_path):
    """The Hub's answer: a redirect to a store that knows nothing of it; small files state the hash of git, which is another."""
    server.linked = SHA
    assert fetch(f"{server.address}/linked", tmp_path / "right").read_bytes() == CONTENT
    server.linked = "0" * 64
    with pytest.raises(RunError, match=r"what came has the sha256 [0-9a-f]{16}\.\.\., promised is 0{16}; thrown away"):
        fetch(f"{server.address}/linked", tmp_path / "wrong")
    assert not list(tmp_path.glob("wrong*"))
    assert fetch(f"{server.address}/linked", tmp_path / "known", sha256=SHA[:8]).read_bytes() == CONTENT
    server.linked = "0" * 40
    assert fetch(f"{server.address}/linked", tmp_path / "small").read_bytes() == CONTENT


def test_a_checksum_is_compared_after_an_interruption_too(server, tmp_path):
    server.linked, server.breaks = "0" * 64, 100_000
    for message in ("broke off after 100000", "promised is 0000"):
        with pytest.raises(RunError, match=message):
            fetch(f"{server.address}/linked", tmp_path / "file")
        server.breaks = None


def test_a_silent_server_is_given_up_within_seconds(tmp_path, monkeypatch):
    monkeypatch.setattr(download, "PATIENCE", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        start = time.monotonic()
        with pytest.raises(RunError, match="could not be fetched"):
            fetch(f"http://127.0.0.1:{silent.getsockname()[1]}/a", tmp_path / "a")
        assert time.monotonic() - start < 5


def test_a_name_that_is_looked_up_for_ever_is_given_up_too(tmp_path, monkeypatch):
    monkeypatch.setattr(download, "PATIENCE", 0.3)
    monkeypatch.setattr(download.urllib.request.OpenerDirector, "open", lambda *_, **__: time.sleep(5))
    start = time.monotonic()
    with pytest.raises(RunError, match=r"no answer in 0\.3 seconds.*or pray\."):
        fetch("http://127.0.0.1:1/a", tmp_path / "a", otherwise="pray")
    assert time.monotonic() - start < 3


class Odd(Handler):
    """What servers and proxies do: `server.manner` names it."""

    def do_GET(self):
        start = int((self.headers.get("Range") or "bytes=0-")[6:-1])
        self.server.asked.append((self.path, start))
        body, manner, size = self.server.content, self.server.manner, len(self.server.content)
        if start and "range" in manner:
            first = {"another range": 0, "no range": None, "beyond range": start + 5}[manner]
            self.send_response(206)
            if first is not None:
                body = body[first:]
                self.send_header("Content-Range", f"bytes {first}-{size - 1}/{size}")
        elif manner == "longer":
            self.send_response(206)
            self.send_header("Content-Range", f"bytes 0-99/{size - 10}")
        else:
            self.send_response(200)
        self.send_header("ETag", self.server.tag)
        self.send_header("Content-Type", "text/html; charset=utf-8" if manner == "page" else "application/octet-stream")
        if manner not in ("no length", "no length, cut"):
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: self.server.breaks])


@pytest.fixture
def odd(server):
    server.RequestHandlerClass, server.manner = Odd, "usual"
    return server


@pytest.mark.parametrize("manner", ["another range", "no range", "beyond range"])
def test_another_part_than_the_asked_one_is_not_appended(odd, tmp_path, manner):
    target, odd.breaks = tmp_path / "file.pth", 100_000
    with pytest.raises(RunError, match="broke off after 100000 of 300000 bytes; the same command goes on from there"):
        fetch(f"{odd.address}/file.pth", target)
    odd.breaks, odd.manner = None, manner
    assert fetch(f"{odd.address}/file.pth", target).read_bytes() == CONTENT
    assert [start for _, start in odd.asked] == [0, 100_000, 0]


def refused(server, target, **promised):
    """The message; nothing is kept, and what is asked for again comes."""
    with pytest.raises(RunError) as caught:
        fetch(f"{server.address}/file.pth", target, **promised)
    assert not list(target.parent.iterdir())
    server.manner, server.content = "usual", CONTENT
    assert fetch(f"{server.address}/file.pth", target, **promised).read_bytes() == CONTENT
    return str(caught.value)


def test_a_web_page_is_no_file(odd, tmp_path):
    odd.manner, odd.content = "page", b"<html>login</html>"
    assert "a web page (text/html) instead of the file" in refused(odd, tmp_path / "told" / "file.pth")
    odd.content = b"\n<!DOCTYPE html><title>login</title>"
    assert "what came is a web page; thrown away" in refused(odd, tmp_path / "untold" / "file.pth")


def test_a_file_of_unknown_length_is_refused_unless_its_checksum_is_known(odd, tmp_path):
    odd.manner = "no length"
    assert "does not say how long the file is" in refused(odd, tmp_path / "a" / "file.pth")
    odd.manner = "no length"
    assert fetch(f"{odd.address}/file.pth", tmp_path / "b", sha256=SHA).read_bytes() == CONTENT
    assert fetch(f"{odd.address}/file.pth", tmp_path / "c", megabytes=0.3).read_bytes() == CONTENT
    odd.content = CONTENT[:200_000]
    text = refused(odd, tmp_path / "d" / "file.pth", megabytes=0.3)
    assert "what came has 0.2 megabytes, published are 0.3; thrown away" in text


def test_a_file_of_another_size_than_published_is_refused(odd, tmp_path):
    odd.content = CONTENT[:100_000]
    assert "has 0.1 megabytes, published are 0.3" in refused(odd, tmp_path / "a" / "file.pth", megabytes=0.3)
    # A checksum says more than a rounded size.
    assert fetch(f"{odd.address}/file.pth", tmp_path / "b", sha256=SHA, megabytes=9).read_bytes() == CONTENT
    assert fetch(f"{odd.address}/file.pth", tmp_path / "c", megabytes=0.32).read_bytes() == CONTENT


def test_a_file_longer_than_promised_is_thrown_away(odd, tmp_path):
    odd.manner = "longer"
    assert "what came has 300000 bytes, the server promised 299990; thrown away" in refused(
        odd, tmp_path / "a" / "file"
    )
