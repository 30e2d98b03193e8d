"""One file from an address: resumable, verified, atomic, cached, and quick to give up when there is no network."""

import hashlib
import os
import re
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from http.client import HTTPException, HTTPMessage, HTTPResponse
from pathlib import Path
from typing import IO, TypeVar

from nuriwake.core.errors import RunError

PATIENCE = 8.0
"""Seconds without an answer, or without a further byte, until the network counts as absent."""

TOLERANCE = 0.1
"""Share of a published size by which a file may be off: such sizes are rounded, and a megabyte is 10**6 or 2**20 bytes."""

_BLOCK = 1 << 20
_PAGES = (b"<!doctype html", b"<html")
_Answer = TypeVar("_Answer")


def fetch(
    address: str,
    target: Path,
    *,
    sha256: str = "",
    megabytes: float | None = None,
    what: str = "",
    otherwise: str = "give the file itself instead of the name",
) -> Path:
    """`target`, fetched from `address` when it is not there yet.

    What has come so far lies beside it as `NAME.part` and is gone on with after an interruption, where the server can
    and its file is still the same; `target` appears only whole and verified.

    Args:
        sha256: the promised checksum or its beginning, in hexadecimal; empty when none is published. The Hugging Face Hub
            states one with its answer (`X-Linked-Etag`), which is then compared.
        megabytes: about how large the file is, where that is published; without a checksum, a file of another size is refused.
        what: the subject of the message when it fails; empty for the address.
        otherwise: what else the user can do, for that message.

    Raises:
        RunError: no answer, an interruption, a web page instead of a file, another checksum or length than was promised, or a
            file of which nobody says how long it is; says how to give a file by hand.
    """
    if target.is_file():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with _alone(target.parent):
        problem = "" if target.is_file() else _fetched(address, target, sha256, megabytes)
    if problem:
        subject = f"{what} could not be fetched from {address}" if what else f"{address} could not be fetched"
        raise RunError(f"{subject} ({problem}); on a machine with a network save it as '{target}', or {otherwise}.")
    return target


def require_answer(address: str) -> None:
    """Ask the server of `address` for its headers, so that an absent network shows within `PATIENCE` seconds.

    Raises:
        OSError: no answer, or a refusal.
    """
    _open(urllib.request.Request(address, method="HEAD", headers=_AGENT)).close()


_AGENT = {"User-Agent": "nuriwake"}


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects, and keeps the checksum that the first server states: the one it sends on to knows none."""

    def __init__(self) -> None:
        self.sha256 = ""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> urllib.request.Request | None:
        """The request to go on with."""
        self.sha256 = self.sha256 or _stated(headers)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _stated(headers: HTTPMessage) -> str:
    """The sha256 of a large file, as the Hugging Face Hub states it (huggingface_hub/constants.py); empty where it does not."""
    tag = headers.get("X-Linked-Etag", "").removeprefix("W/").strip('"').lower()
    return tag if re.fullmatch("[0-9a-f]{64}", tag) else ""


def _open(request: urllib.request.Request, redirects: _Redirects | None = None) -> HTTPResponse:
    opener = urllib.request.build_opener(redirects or _Redirects())
    return _within(PATIENCE, lambda: opener.open(request, timeout=PATIENCE))


def _within(seconds: float, action: Callable[[], _Answer]) -> _Answer:
    """What `action` answers, or raises, in a thread: name look-up has no time-out of its own.

    Raises:
        TimeoutError: it is not done in time.
    """
    answers: list[_Answer] = []
    problems: list[Exception] = []

    def run() -> None:
        try:
            answers.append(action())
        except Exception as error:
            problems.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if answers:
        return answers[0]
    raise problems[0] if problems else TimeoutError(f"no answer in {seconds:g} seconds")


@contextmanager
def _alone(folder: Path) -> Generator[None]:
    """One process at a time: those of a team want the same file, and would write into each other's half."""
    try:
        import fcntl
    except ImportError:  # not on Windows, where a team of processes is not either
        yield
        return
    opened = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network file systems have no locks
            fcntl.flock(opened, fcntl.LOCK_EX)
        yield
    finally:
        os.close(opened)


def _fetched(address: str, target: Path, sha256: str, megabytes: float | None) -> str:
    """Fetch `target`; what went wrong, empty when nothing did."""
    part, mark = (target.with_name(f"{target.name}.{end}") for end in ("part", "etag"))
    try:
        promised = _continue(address, part, mark, sha256, megabytes)
    except (OSError, HTTPException) as error:
        return str(error) or type(error).__name__
    mark.unlink(missing_ok=True)
    problem = _wrong(part, promised, megabytes)
    if problem:
        part.unlink()
        return f"{problem}; thrown away"
    part.replace(target)
    return ""


def _continue(address: str, part: Path, mark: Path, sha256: str, megabytes: float | None) -> str:
    """Fetch what `part` lacks; the checksum that is promised, `sha256` or else by the server, empty where there is none.

    `mark` keeps the server's tag of the file, so that halves of two versions never meet.
    """
    redirects = _Redirects()
    start = part.stat().st_size if part.is_file() and mark.is_file() else 0
    headers = {**_AGENT, "Accept-Encoding": "identity"}
    if start:
        headers |= {"Range": f"bytes={start}-", "If-Range": mark.read_text()}
    try:
        answer = _open(urllib.request.Request(address, headers=headers), redirects)
    except urllib.error.HTTPError as error:
        if error.code != 416 or not start:
            raise
        part.unlink()  # the server's file ends before ours: begin anew
        return _continue(address, part, mark, sha256, megabytes)
    with answer:
        promised = sha256 or redirects.sha256 or _stated(answer.headers)
        if answer.headers.get_content_type() == "text/html":
            raise OSError(
                "the server sent a web page (text/html) instead of the file; a proxy or a login may stand in between"
            )
        going_on = answer.status == 206
        begins, total = _extent(answer)
        moved = going_on and begins != start
        if moved and not start:
            raise OSError("the server sent another part of the file than its beginning")
        if not moved:
            _receive(answer, part, mark, start if going_on else 0, total, promised, megabytes)
            return promised
    part.unlink()  # another part than the one asked for: begin anew
    return _continue(address, part, mark, sha256, megabytes)


def _extent(answer: HTTPResponse) -> tuple[int | None, int | None]:
    """(first byte, bytes of the whole file) that the server says it sends; None for what it does not say."""
    length = answer.headers.get("Content-Length", "")
    sent = int(length) if length.isdecimal() else None
    if answer.status != 206:
        return 0, sent
    found = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", answer.headers.get("Content-Range", "").strip())
    if found is None:
        return None, None
    return int(found[1]), int(found[2]) + 1 if found[3] == "*" else int(found[3])


def _receive(
    answer: HTTPResponse, part: Path, mark: Path, start: int, total: int | None, promised: str, megabytes: float | None
) -> None:
    """Write what `answer` sends behind the first `start` bytes of `part`.

    Raises:
        OSError: it is not `total` bytes long, or nobody can tell whether it is whole.
    """
    known = bool(promised) or megabytes is not None
    if total is None and not answer.chunked and not known:  # chunks end with a mark of their own
        raise OSError("the server does not say how long the file is, so that nobody can tell whether it came whole")
    if total is not None and not promised and (problem := _another_size(total, megabytes)):
        raise OSError(problem)
    if not start:
        tag = answer.headers.get("ETag", "")
        mark.write_text(tag) if tag and not tag.startswith("W/") else mark.unlink(missing_ok=True)
    with part.open("ab" if start else "wb") as file:
        while block := answer.read(_BLOCK):
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
    found = part.stat().st_size
    if total is None or found == total:
        return
    if found > total:
        part.unlink()
        mark.unlink(missing_ok=True)
        raise OSError(f"what came has {found} bytes, the server promised {total}; thrown away")
    after = "goes on from there" if mark.is_file() else "begins anew"
    raise OSError(f"it broke off after {found} of {total} bytes; the same command {after}")


def _another_size(found: int, megabytes: float | None) -> str:
    """What is wrong with a file of `found` bytes; empty when nothing is known of its size, or it is about that."""
    if megabytes is None or megabytes * 1e6 * (1 - TOLERANCE) <= found <= megabytes * 2**20 * (1 + TOLERANCE):
        return ""
    return f"what came has {found / 1e6:.1f} megabytes, published are {megabytes:g}"


def _wrong(part: Path, promised: str, megabytes: float | None) -> str:
    """What is wrong with a fetched file; empty when it is the promised one, or nothing is known of it that it is not."""
    with part.open("rb") as file:
        if not promised:
            page = file.read(512).lstrip().lower().startswith(_PAGES)
            return "what came is a web page" if page else _another_size(part.stat().st_size, megabytes)
        found = hashlib.file_digest(file, "sha256").hexdigest()
    return (
        "" if found.startswith(promised) else f"what came has the sha256 {found[:16]}..., promised is {promised[:16]}"
    )
