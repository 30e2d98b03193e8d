"""Bytes anywhere in gzipped files: against Python's gzip, bounded in memory, and never wrong without a word."""

import gzip
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from nuriwake.core.errors import UserError
from nuriwake.data import nifti_stream
from nuriwake.data.nifti_stream import GzipFiles


@pytest.fixture
def contents() -> bytes:
    """Runs and noise, so that input and output advance at very different rates."""
    rng = np.random.default_rng(0)
    return b"".join(bytes(200_000) + rng.integers(0, 256, 150_000, np.uint8).tobytes() for _ in range(4))


@pytest.fixture
def small(monkeypatch) -> None:
    """Many states, and hardly any memory for what was unpacked."""
    monkeypatch.setattr(nifti_stream, "SPACING", 1 << 16)
    monkeypatch.setattr(nifti_stream, "UNPACKED_BYTES", 1)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("members", [1, 3])
def test_every_part_is_what_gzip_unpacks(tmp_path, contents, members):
    path = tmp_path / "a.gz"
    step = -(-len(contents) // members)
    path.write_bytes(b"".join(gzip.compress(contents[i : i + step]) for i in range(0, len(contents), step)))
    (tmp_path / "b.gz").write_bytes(gzip.compress(b"x" * 1000))
    files, rng = GzipFiles(), np.random.default_rng(1)
    for _ in range(40):
        start = int(rng.integers(len(contents)))
        stop = int(rng.integers(start, min(len(contents), start + 300_000))) + 1
        assert bytes(files.read(path, start, stop, total=len(contents))) == contents[start:stop]
        files.read(tmp_path / "b.gz", 0, 1000, total=1000)  # pushes the contents of the other file out
    unpacked, states = files.held()
    assert unpacked <= 1000
    assert states >= 10 * nifti_stream._STATE


def test_what_is_kept_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(nifti_stream, "UNPACKED_BYTES", 3_000_000)
    monkeypatch.setattr(nifti_stream, "CHECKPOINT_BYTES", 5 * nifti_stream._STATE)
    files = GzipFiles()
    for number in range(12):
        path = tmp_path / f"{number}.gz"
        path.write_bytes(gzip.compress(bytes([number]) * 1_000_000))
        assert bytes(files.read(path, 10, 20, total=1_000_000)) == bytes([number]) * 10
        unpacked, states = files.held()
        assert unpacked <= 3_000_000
        assert states <= 5 * nifti_stream._STATE
    assert unpacked == 3_000_000


def test_a_file_that_is_written_anew_is_read_anew(tmp_path):
    path, files = tmp_path / "a.gz", GzipFiles()
    for number in (1, 2):
        path.write_bytes(gzip.compress(bytes([number]) * 1000))
        os.utime(path, ns=(number, number))
        assert files.read(path, 5, 6, total=1000)[0] == number


@pytest.mark.parametrize("keep", [0.0, 0.01, 0.5, 0.99, -1])
def test_a_file_that_is_cut_off_is_refused(tmp_path, contents, keep):
    path = tmp_path / "a.gz"
    whole = gzip.compress(contents)
    path.write_bytes(whole[: int(len(whole) * keep) if keep >= 0 else -1])
    with pytest.raises(UserError, match=r"a\.gz.*(cut off|unpacked)"):
        GzipFiles().read(path, 0, 10, total=len(contents))


def test_a_changed_byte_is_refused(tmp_path, contents):
    path, whole, rng = tmp_path / "a.gz", gzip.compress(contents), np.random.default_rng(2)
    for _ in range(12):
        damaged = bytearray(whole)
        damaged[int(rng.integers(20, len(whole) - 4))] ^= 1 << int(rng.integers(8))
        path.write_bytes(bytes(damaged))
        with pytest.raises(UserError, match=r"a\.gz"):
            GzipFiles().read(path, 0, 10, total=len(contents))


@pytest.mark.usefixtures("small")
def test_threads_read_side_by_side(tmp_path, contents):
    paths = [tmp_path / f"{number}.gz" for number in range(3)]
    for number, path in enumerate(paths):
        path.write_bytes(gzip.compress(contents[number:]))
    files = GzipFiles()

    def look(turn: int) -> bool:
        number, start = turn % 3, turn * 7919 % 1_000_000
        found = files.read(paths[number], start, start + 999, total=len(contents) - number)
        return bytes(found) == contents[number + start : number + start + 999]

    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(look, range(120)))


def test_a_stream_that_goes_on_past_what_is_declared_is_compared_with_its_checksum(tmp_path, contents, monkeypatch):
    """Damage may make the contents longer: what was asked for is there, and wrong."""
    path, whole = tmp_path / "a.gz", bytearray(gzip.compress(contents))
    path.write_bytes(bytes(whole))
    assert bytes(GzipFiles().read(path, 5, 50, total=1000)) == contents[5:50]
    whole[-8] ^= 1
    path.write_bytes(bytes(whole))
    with pytest.raises(UserError, match=r"a\.gz.*cannot be unpacked"):
        GzipFiles().read(path, 5, 50, total=1000)
    monkeypatch.setattr(nifti_stream, "MOST_BEYOND", 10_000)
    with pytest.raises(UserError, match=r"a\.gz: after the voxels.*10,000 other bytes"):
        GzipFiles().read(path, 5, 50, total=1000)
