"""The catalogue of published weights: complete, and what forbids commercial use wants consent."""

import hashlib
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from nuriwake.cli import run
from nuriwake.core.errors import RunError, UserError
from nuriwake.weights import catalogue
from nuriwake.weights.catalogue import WEIGHTS, Weights, fetch_weights

SHA = hashlib.sha256(b"weights").hexdigest()


class Handler(BaseHTTPRequestHandler):
    """Serves the same bytes under any name; `server.asked` is what was asked for."""

    def do_GET(self):
        self.server.asked.append(self.path)
        self.send_response(200)
        self.send_header("Content-Length", "7")
        self.end_headers()
        self.wfile.write(b"weights")

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.asked, server.address = [], f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_weights_for_research_only_need_consent(server, tmp_path, monkeypatch):
    research = Weights(
        server.address, 7e-6, "research only", "-", commercial=False, files=("config.json", "weights.bin")
    )
    monkeypatch.setitem(catalogue.WEIGHTS, "some/weights", research)
    with pytest.raises(UserError, match=r"forbid commercial use \(research only\).*--accept-license"):
        fetch_weights("some/weights", folder=tmp_path)
    assert not server.asked
    folder = fetch_weights("some/weights", accept_license=True, folder=tmp_path)
    assert {path.name for path in folder.iterdir()} == {"config.json", "weights.bin"}
    with pytest.raises(UserError, match="Did you mean 'some/weights'"):
        fetch_weights("some/weight", folder=tmp_path)


def test_a_file_of_another_size_than_the_catalogues_is_refused(server, tmp_path, monkeypatch):
    for files, name in (((), "weights.bin"), (("config.json", "weights.bin"), "")):
        weights = Weights(f"{server.address}/{name}".rstrip("/"), 0.3, "MIT", "-", files=files)
        monkeypatch.setitem(catalogue.WEIGHTS, "some/weights", weights)
        with pytest.raises(
            RunError, match=r"weights\.bin could not be fetched \(what came has 0\.0 megabytes, published are 0\.3"
        ):
            fetch_weights("some/weights", folder=tmp_path)
        assert not list(tmp_path.rglob("weights.bin"))


def test_the_catalogue_is_complete(capsys):
    for name, weights in WEIGHTS.items():
        assert weights.licence, name
        assert weights.score, name
        assert weights.address.startswith("https://"), name
        assert "NVIDIA" in weights.licence or weights.commercial, name
        # What is published of a checksum is compared; the Hub states one with every large file.
        assert weights.verified_by.startswith("sha256") or "detectron2" in name, name
        assert bool(weights.sha256) == name.startswith("torchvision/"), name
        assert re.fullmatch("[0-9a-f]{8}|", weights.sha256), name
    assert run(["models", "--weights"]) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in WEIGHTS)


def test_the_beginning_of_a_checksum_in_a_name_is_compared(server, tmp_path, monkeypatch):
    for digits, message in (("0c29a1f5", "promised is 0c29a1f5"), (SHA[:8], "")):
        weights = Weights(f"{server.address}/some_coco-{digits}.pth", 0.3, "MIT", "-", sha256=digits)
        monkeypatch.setitem(catalogue.WEIGHTS, "some/weights", weights)
        if message:
            with pytest.raises(RunError, match=message):
                fetch_weights("some/weights", folder=tmp_path)
        else:
            assert fetch_weights("some/weights", folder=tmp_path).read_bytes() == b"weights"


def test_import_by_name_wants_consent_too(capsys, tmp_path):
    assert run(["import", "nvidia/segformer_b0_ade20k", "--out", str(tmp_path / "a.safetensors")]) == 2
    assert "--accept-license" in capsys.readouterr().err
