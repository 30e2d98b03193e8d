"""Large JSON files looked at without building them: where the fields of a list of objects lie, and the numbers in them.

The annotations of COCO are half a gigabyte of numbers, which as Python objects are several. Here the file stays where it is,
mapped into memory; what comes out are places in it and columns of numbers, exact to the last bit of what Python reads.
"""

import json
import mmap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nuriwake.core.errors import UserError
from nuriwake.core.lookup import did_you_mean
from nuriwake.data.json_kernels import (
    EXACT,
    INEXACT,
    MISSING,
    parse_integers,
    parse_number_rows,
    parse_numbers,
    scan_arrays,
    scan_members,
    skip_white,
)

Buffer = bytes | mmap.mmap


@dataclass(frozen=True, eq=False)
class JsonFile:
    """The file at `path`, whose top level is an object.

    Args:
        data: its bytes, most often a memory map.
        members: name -> (start, end) of the value, in bytes.
    """

    path: Path
    data: Buffer
    bytes: np.ndarray
    members: dict[str, tuple[int, int]]

    def value(self, start: int, end: int) -> Any:
        """What lies at bytes `start` to `end`. Raises UserError with line and byte where it is no JSON."""
        try:
            return json.loads(self.data[start:end])
        except ValueError as error:
            offset = getattr(error, "pos", 0)
            raise UserError(
                f"{self.path}: this is no JSON at {_place(self.data, start + offset)} ({error})."
            ) from error

    def member(self, name: str) -> Any:
        """The value of the top-level member `name`; None where it is absent."""
        return self.value(*self.members[name]) if name in self.members else None

    def objects(self, name: str, keys: Sequence[str]) -> "JsonTable":
        """The list of objects that is the member `name`: where its fields `keys` lie.

        Raises:
            UserError: no such member, no list of objects, or the file is cut off or broken in it.
        """
        if name not in self.members:
            raise UserError(
                f"{self.path}: there is no field '{name}' at the top.{did_you_mean(name, list(self.members)[:50])}"
            )
        spans, _ = self._scan(name, np.array([self.members[name][0]], np.int64), keys)
        return JsonTable(self, name, tuple(keys), spans)

    def nested(self, outer: "JsonTable", key: str, keys: Sequence[str]) -> tuple["JsonTable", np.ndarray]:
        """The objects of the lists that are the field `key` of `outer`, one after the other.

        Returns:
            The table, and (len(outer) + 1,) int64: the rows of object i are offsets[i] to offsets[i + 1].

        Raises:
            UserError: as `objects`, and where the field is absent or no list.
        """
        name = f"{outer.name}.{key}"
        places = outer.spans[:, outer.keys.index(key)]
        for row in np.flatnonzero(places[:, 0] < 0).tolist():
            raise UserError(f"{outer.who(row)}: the field '{key}' is missing.")
        spans, counts = self._scan(name, np.ascontiguousarray(places[:, 0]), keys)
        return JsonTable(self, name, tuple(keys), spans), np.concatenate([[0], np.cumsum(counts)])

    def _scan(self, name: str, starts: np.ndarray, keys: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        words, ends = _packed(keys)
        spans, counts, error = scan_arrays(self.bytes, starts, words, ends)
        if error >= 0:
            raise UserError(_broken(self.path, self.data, int(error), f"in '{name}' after {len(spans):,} entries"))
        return spans, counts


@dataclass(frozen=True, eq=False)
class JsonTable:
    """N objects of a list and where their K fields lie: spans int64 (N, K, 2), start and end in bytes, -1 where absent."""

    file: JsonFile
    name: str
    keys: tuple[str, ...]
    spans: np.ndarray

    def __len__(self) -> int:
        return len(self.spans)

    def places(self, key: str) -> np.ndarray:
        """(N, 2) int64: where the field lies, -1 where it is absent."""
        return np.ascontiguousarray(self.spans[:, self.keys.index(key)])

    def present(self, key: str) -> np.ndarray:
        """(N,) bool."""
        return self.spans[:, self.keys.index(key), 0] >= 0

    def who(self, row: int) -> str:
        """The file and the object, for messages: its place in the list and its id where it has one."""
        text = f"{self.file.path}: {self.name}[{row}]"
        if "id" in self.keys and self.present("id")[row]:
            start, end = self.spans[row, self.keys.index("id")].tolist()
            text += f" (id {self.file.data[start:end].decode(errors='replace')})"
        return text

    def integers(self, key: str, *, default: int | None = None) -> np.ndarray:
        """The field as int64 (N,); true is 1.

        Args:
            default: of objects without the field; None: they are an error.

        Raises:
            UserError: absent or no whole number; the object is named.
        """
        places = self.places(key)
        values, states = np.zeros(len(places), np.int64), np.zeros(len(places), np.uint8)
        parse_integers(self.file.bytes, places, values, states)
        for row in np.flatnonzero(states != EXACT).tolist():
            found = self._otherwise(key, row, states, default, "a whole number")
            if int(found) != found or abs(found) >= 2**62:
                raise UserError(f"{self.who(row)}: the field '{key}' is a whole number, found {found}.")
            values[row] = int(found)
        return values

    def numbers(self, key: str, *, default: float | None = None) -> np.ndarray:
        """The field as float64 (N,), as Python reads it. Raises as `integers`."""
        places = self.places(key)
        values, states = np.zeros(len(places), np.float64), np.zeros(len(places), np.uint8)
        parse_numbers(self.file.bytes, places, values, states)
        data = self.file.data
        for row in np.flatnonzero(states == INEXACT).tolist():  # sound, but of more digits than one rounding can do
            start, end = places[row].tolist()
            values[row] = float(data[start:end])
        for row in np.flatnonzero(states > INEXACT).tolist():
            values[row] = self._otherwise(key, row, states, default, "a number")
        return values

    def number_rows(self, key: str, length: int) -> np.ndarray:
        """The field, a list of `length` numbers, as float64 (N, length); NaN where it is absent or null.

        Raises:
            UserError: something else; the object is named.
        """
        places = self.places(key)
        values, states = np.full((len(places), length), np.nan), np.zeros(len(places), np.uint8)
        parse_number_rows(self.file.bytes, places, values, states)
        for row in np.flatnonzero((states != EXACT) & (states != MISSING)).tolist():
            found = self.value(key, row)
            if found is None:
                values[row] = np.nan
                continue
            fine = isinstance(found, list) and len(found) == length and all(_is_number(item) for item in found)
            if not fine:
                raise UserError(
                    f"{self.who(row)}: the field '{key}' is a list of {length} numbers, found {_some(found)}."
                )
            values[row] = found
        return values

    def texts(self, key: str) -> list[str]:
        """The field as text. Raises UserError where it is absent or no text."""
        data = self.file.data
        result: list[str] = []
        for row, (start, end) in enumerate(self.places(key).tolist()):
            raw = data[start:end] if start >= 0 else b""
            if raw[:1] == b'"' and b"\\" not in raw:
                try:
                    result.append(raw[1:-1].decode())
                    continue
                except UnicodeDecodeError as error:
                    raise UserError(f"{self.who(row)}: the field '{key}' is not UTF-8 ({error}).") from error
            value = self.value(key, row)
            if not isinstance(value, str):
                raise UserError(f"{self.who(row)}: the field '{key}' is text, found {_some(value)}.")
            result.append(value)
        return result

    def _otherwise(self, key: str, row: int, states: np.ndarray, default: float | None, kind: str) -> float:
        if states[row] == MISSING and default is not None:
            return default
        value: Any = self.value(key, row)
        if value is None and default is not None:
            return default
        if isinstance(value, bool):
            return int(value)
        if not _is_number(value):
            raise UserError(f"{self.who(row)}: the field '{key}' is {kind}, found {_some(value)}.")
        return value  # pyright: ignore[reportReturnType]

    def value(self, key: str, row: int) -> Any:
        """The field of one object, whatever it is. Raises UserError where it is absent or no JSON."""
        start, end = self.spans[row, self.keys.index(key)].tolist()
        if start < 0:
            raise UserError(f"{self.who(row)}: the field '{key}' is missing.")
        return self.file.value(start, end)


def read_json(path: Path) -> JsonFile:
    """The file at `path`, mapped.

    Raises:
        UserError: missing or empty, no JSON object, cut off in the middle or broken; line and byte are named.
    """
    try:
        with path.open("rb") as file:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}).") from error
    except ValueError as error:
        raise UserError(f"{path}: the file is empty.") from error
    return parse_json(path, data)


def parse_json(path: Path, data: Buffer) -> JsonFile:
    """The bytes `data` of `path`. Raises as `read_json`."""
    buffer = np.frombuffer(data, np.uint8)
    start = skip_white(buffer, 3 if data[:3] == b"\xef\xbb\xbf" else 0)
    if start >= len(buffer) or buffer[start] != ord("{"):
        raise UserError(f"{path}: expected a JSON object, found a file that begins with {data[:12]!r}.")
    places, error = scan_members(buffer, start)
    whole = {_key(data, a, b): (c, d) for a, b, c, d in places.tolist() if d >= 0}
    if error >= 0:
        raise UserError(_broken(path, data, int(error), _where(data, buffer, whole, places)))
    return JsonFile(path, data, buffer, whole)


def _key(data: Buffer, start: int, end: int) -> str:
    raw = data[start:end]
    try:
        return json.loads(raw) if b"\\" in raw else raw[1:-1].decode()
    except ValueError:
        return raw.decode(errors="replace")


def _where(data: Buffer, buffer: np.ndarray, whole: dict[str, tuple[int, int]], places: np.ndarray) -> str:
    """In which member, and after how many of its entries, a file is broken."""
    key_start, key_end, start, end = places[-1].tolist() if len(places) else (-1, -1, -1, -1)
    if start < 0 or end >= 0:
        return f"after the field '{list(whole)[-1]}'" if whole else "at its beginning"
    name = _key(data, key_start, key_end)
    if buffer[start] != ord("["):
        return f"in '{name}'"
    spans, _, _ = scan_arrays(buffer, np.array([start]), *_packed(("id",)))
    last = spans[-1, 0].tolist() if len(spans) else [-1, -1]
    of = f", the last of id {data[last[0] : last[1]].decode(errors='replace')}" if last[0] >= 0 else ""
    return f"in '{name}' after {len(spans):,} complete entries{of}"


def _broken(path: Path, data: Buffer, position: int, where: str) -> str:
    if position >= len(data):
        return f"{path}: the JSON is cut off: it ends at {_place(data, len(data))}, {where}; copy or download it again."
    found = data[position : position + 12].decode(errors="replace")
    return f"{path}: this is no JSON at {_place(data, position)}, {where}: found '{found}'; correct it there."


def _place(data: Buffer, position: int) -> str:
    lines, start = 1, 0
    while start < position:
        block = data[start : min(start + (1 << 24), position)]
        lines, start = lines + block.count(b"\n"), start + len(block)
    return f"line {lines:,}, byte {position:,}"


def _packed(keys: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    words = [key.encode() for key in keys]
    return np.frombuffer(b"".join(words), np.uint8), np.cumsum([len(word) for word in words])


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value == value


def _some(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:60]}..."
