"""One file from an address: resumable, verified, atomic, cached, and quick to give up when there is no network."""

import hashlib
import os
import urllib.error
import urllib.request
from http.client import HTTPException, HTTPResponse
from pathlib import Path

from nuriwake.core.errors import RunError

PATIENCE = 8.0
"""Seconds without an answer, or without a further byte, until the network counts as absent."""

_BLOCK = 1 << 20


def cache_folder() -> Path:
    """Where fetched weights are kept: NURIWAKE_CACHE, else the user's cache folder."""
    given = os.environ.get("NURIWAKE_CACHE")
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(given) if given else base / "nuriwake" / "weights"


def fetch(address: str, target: Path, *, sha256: str = "") -> Path:
    """`target`, fetched from `address` when it is not there yet.

    What has come so far lies beside it as `NAME.part` and is gone on with after an interruption, where the server can
    and its file is still the same; `target` appears only whole and verified.

    Args:
        sha256: the promised checksum or its beginning, in hexadecimal; empty when none is published.

    Raises:
        RunError: no answer, an interruption, or another checksum; says how to give a file by hand.
    """
    if target.is_file():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.part")
    mark = target.with_name(f"{target.name}.etag")
    try:
        _continue(address, part, mark)
    except (OSError, HTTPException) as error:
        raise RunError(_by_hand(address, target, str(error) or type(error).__name__)) from error
    mark.unlink(missing_ok=True)
    _verify(address, part, target, sha256)
    part.replace(target)
    return target


def _continue(address: str, part: Path, mark: Path) -> None:
    """Fetch what `part` lacks. `mark` keeps the server's tag of the file, so that halves of two versions never meet."""
    start = part.stat().st_size if part.is_file() and mark.is_file() else 0
    headers = {"User-Agent": "nuriwake", "Accept-Encoding": "identity"}
    if start:
        headers |= {"Range": f"bytes={start}-", "If-Range": mark.read_text()}
    try:
        answer: HTTPResponse = urllib.request.urlopen(
            urllib.request.Request(address, headers=headers), timeout=PATIENCE
        )
    except urllib.error.HTTPError as error:
        if error.code != 416 or not start:
            raise
        part.unlink()  # the server's file ends before ours: begin anew
        _continue(address, part, mark)
        return
    with answer:
        going_on = answer.status == 206
        tag = answer.headers.get("ETag", "")
        if not going_on:
            start = 0
            mark.write_text(tag) if tag and not tag.startswith("W/") else mark.unlink(missing_ok=True)
        length = answer.headers.get("Content-Length")
        with part.open("ab" if going_on else "wb") as file:
            while block := answer.read(_BLOCK):
                file.write(block)
            file.flush()
            os.fsync(file.fileno())
    found = part.stat().st_size
    if length is not None and found != start + int(length):
        raise OSError(f"it broke off after {found} of {start + int(length)} bytes; the same command goes on from there")


def _verify(address: str, part: Path, target: Path, sha256: str) -> None:
    if not sha256:
        return
    with part.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if not found.startswith(sha256):
        part.unlink()
        raise RunError(
            _by_hand(
                address, target, f"what came has the sha256 {found[:16]}..., promised is {sha256[:16]}; thrown away"
            )
        )


def _by_hand(address: str, target: Path, problem: str) -> str:
    return (
        f"{address} could not be fetched ({problem}); on a machine with a network save it as '{target}', or give the file "
        "itself instead of the name."
    )
