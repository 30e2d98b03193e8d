"""The loops over bytes behind `data.json_scan`. Positions below 0 mean: broken at byte -position - 1."""

import numpy as np

from nuriwake.core.pixels import kernel

EXACT, INEXACT, OTHER, MISSING = 0, 1, 2, 3
"""What a parser made of a field: the exact number; one for Python to read; no number; not there."""

_DEEPEST = 60
_TENS = 10.0 ** np.arange(23)
_SAFE = 2**53


@kernel
def skip_white(data: np.ndarray, i: int) -> int:
    """The first byte from `i` on that is no white space."""
    while i < len(data) and (data[i] == 32 or 9 <= data[i] <= 10 or data[i] == 13):
        i += 1
    return i


@kernel
def _skip_string(data: np.ndarray, i: int) -> int:
    i += 1
    while i < len(data):
        if data[i] == 34:
            return i + 1
        i += 2 if data[i] == 92 else 1
    return -len(data) - 1


@kernel
def _skip_value(data: np.ndarray, i: int) -> int:
    """From the first byte of a value to behind its last."""
    first = data[i]
    if first == 34:
        return _skip_string(data, i)
    if first != 91 and first != 123:
        start = i
        while i < len(data) and not (
            data[i] == 44 or data[i] == 93 or data[i] == 125 or data[i] == 32 or 9 <= data[i] <= 13
        ):
            i += 1
        # A number or word that the end of the file touches may be half of one.
        return -i - 1 if i == start or i == len(data) else i
    depth, kinds = 0, np.int64(0)
    while i < len(data):
        byte = data[i]
        if byte == 34:
            i = _skip_string(data, i)
            if i < 0:
                return i
            continue
        if byte == 91 or byte == 123:
            depth += 1
            if depth > _DEEPEST:
                return -i - 1
            kinds = kinds << 1 | (1 if byte == 123 else 0)
        elif byte == 93 or byte == 125:
            if (kinds & 1) != (1 if byte == 125 else 0):
                return -i - 1
            kinds >>= 1
            depth -= 1
            if depth == 0:
                return i + 1
        i += 1
    return -len(data) - 1


@kernel
def _member(data: np.ndarray, i: int, place: np.ndarray) -> int:
    """Key and value from `i` on; place (4,) becomes start and end of either."""
    i = skip_white(data, i)
    if i >= len(data) or data[i] != 34:
        return -i - 1
    place[0] = i
    i = _skip_string(data, i)
    if i < 0:
        return i
    place[1] = i
    i = skip_white(data, i)
    if i >= len(data) or data[i] != 58:
        return -i - 1
    i = skip_white(data, i + 1)
    if i >= len(data):
        return -i - 1
    place[2] = i
    i = _skip_value(data, i)
    place[3] = i
    return i


@kernel
def _after(data: np.ndarray, i: int, closing: int) -> tuple[int, bool]:
    """Behind a comma (more follows) or behind `closing` (it was the last)."""
    i = skip_white(data, i)
    if i < len(data) and data[i] == 44:
        return i + 1, True
    if i < len(data) and data[i] == closing:
        return i + 1, False
    return -i - 1, False


@kernel
def scan_members(data: np.ndarray, start: int) -> tuple[np.ndarray, int]:
    """The members of the object at `start`: int64 (M, 4), start and end of key and value; and where it is broken, or -1.

    Of the member that is broken, what is known is the last row; the rest of it is -1.
    """
    places = np.full((64, 4), -1, np.int64)
    found = 0
    i = skip_white(data, start + 1)
    if i < len(data) and data[i] == 125:
        return places[:0], -1
    more = True
    while more:
        if found == len(places):
            places = np.concatenate((places, np.full_like(places, -1)))
        i = _member(data, i, places[found])
        found += 1
        if i < 0:
            places[found - 1, 3] = -1
            return places[:found], -i - 1
        i, more = _after(data, i, 125)
        if i < 0:
            return places[:found], -i - 1
    i = skip_white(data, i)
    return places[:found], i if i < len(data) else -1


@kernel
def _scan_object(data: np.ndarray, i: int, words: np.ndarray, ends: np.ndarray, row: np.ndarray) -> int:
    """The fields of the object at `i` that are called as one of `words`, to row (K, 2); behind the object."""
    row[:] = -1
    place = np.empty(4, np.int64)
    i = skip_white(data, i + 1)
    if i < len(data) and data[i] == 125:
        return i + 1
    more = True
    while more:
        i = _member(data, i, place)
        if i < 0:
            return i
        start, length = place[0] + 1, place[1] - place[0] - 2
        first = 0
        for k in range(len(ends)):
            if ends[k] - first == length:
                same = True
                for c in range(length):
                    if data[start + c] != words[first + c]:
                        same = False
                        break
                if same:
                    row[k, 0], row[k, 1] = place[2], place[3]
                    break
            first = ends[k]
        i, more = _after(data, i, 125)
        if i < 0:
            return i
    return i


@kernel
def scan_arrays(
    data: np.ndarray, starts: np.ndarray, words: np.ndarray, ends: np.ndarray
) -> tuple[np.ndarray, np.ndarray, int]:
    """The objects in the arrays that begin at `starts`.

    Args:
        words, ends: the wanted keys, one after the other, and where each ends.

    Returns:
        spans int64 (N, K, 2) of all objects in order, how many each array holds (A,), and where it is broken, or -1.
    """
    spans = np.empty((1024, len(ends), 2), np.int64)
    counts = np.zeros(len(starts), np.int64)
    found = 0
    for array in range(len(starts)):
        i = starts[array]
        if data[i] != 91:
            return spans[:found], counts, i
        i = skip_white(data, i + 1)
        if i < len(data) and data[i] == 93:
            continue
        more = True
        while more:
            i = skip_white(data, i)
            if i >= len(data) or data[i] != 123:
                return spans[:found], counts, i
            if found == len(spans):
                spans = np.concatenate((spans, np.empty_like(spans)))
            i = _scan_object(data, i, words, ends, spans[found])
            if i < 0:
                return spans[:found], counts, -i - 1
            found += 1
            counts[array] += 1
            i, more = _after(data, i, 93)
            if i < 0:
                return spans[:found], counts, -i - 1
    return spans[:found], counts, -1


@kernel
def _number(data: np.ndarray, i: int, end: int) -> tuple[float, int, int]:
    """(value, behind it, EXACT | INEXACT | OTHER) of the number at `i`.

    Exact by Clinger's rule: digits below 2^53 times or over a power of ten up to 10^22 are one rounding from the truth.
    """
    negative = i < end and data[i] == 45
    if negative:
        i += 1
    mantissa, exponent, digits, first = np.int64(0), 0, 0, i
    while i < end and 48 <= data[i] <= 57:
        mantissa, digits = (mantissa * 10 + data[i] - 48, digits + 1) if digits < 18 else (mantissa, 99)
        i += 1
    if i == first:
        return 0.0, i, OTHER
    if i < end and data[i] == 46:
        i += 1
        while i < end and 48 <= data[i] <= 57:
            mantissa, digits = (mantissa * 10 + data[i] - 48, digits + 1) if digits < 18 else (mantissa, 99)
            exponent -= 1
            i += 1
    if i < end and (data[i] == 101 or data[i] == 69):
        i += 1
        sign = 1
        if i < end and (data[i] == 43 or data[i] == 45):
            sign = -1 if data[i] == 45 else 1
            i += 1
        power, first = 0, i
        while i < end and 48 <= data[i] <= 57:
            power = min(power * 10 + data[i] - 48, 9999)
            i += 1
        if i == first:
            return 0.0, i, OTHER
        exponent += sign * power
    if digits > 18 or mantissa >= _SAFE or exponent < -22 or exponent > 22:
        return 0.0, i, INEXACT
    value = float(mantissa)
    value = value / _TENS[-exponent] if exponent < 0 else value * _TENS[exponent]
    return -value if negative else value, i, EXACT


@kernel
def parse_numbers(data: np.ndarray, places: np.ndarray, values: np.ndarray, states: np.ndarray) -> None:
    """The numbers at places (N, 2) to values (N,) float64, and what became of each to states (N,) uint8."""
    for row in range(len(places)):
        start, end = places[row, 0], places[row, 1]
        if start < 0:
            states[row] = MISSING
            continue
        values[row], i, states[row] = _number(data, start, end)
        if i != end:
            states[row] = OTHER


@kernel
def parse_integers(data: np.ndarray, places: np.ndarray, values: np.ndarray, states: np.ndarray) -> None:
    """The whole numbers at places (N, 2) to values (N,) int64, and what became of each to states (N,) uint8."""
    for row in range(len(places)):
        start, end = places[row, 0], places[row, 1]
        if start < 0:
            states[row] = MISSING
            continue
        negative = data[start] == 45
        i = start + 1 if negative else start
        value = np.int64(0)
        states[row] = OTHER if i == end or end - i > 18 else EXACT
        while i < end:
            if not 48 <= data[i] <= 57:
                states[row] = OTHER
                break
            value = value * 10 + data[i] - 48
            i += 1
        values[row] = -value if negative else value


@kernel
def parse_number_rows(data: np.ndarray, places: np.ndarray, values: np.ndarray, states: np.ndarray) -> None:
    """The lists of numbers at places (N, 2) to values (N, L) float64, and what became of each to states (N,) uint8."""
    length = values.shape[1]
    for row in range(len(places)):
        start, end = places[row, 0], places[row, 1]
        if start < 0:
            states[row] = MISSING
            continue
        states[row] = EXACT if data[start] == 91 else OTHER
        i = start + 1
        for column in range(length):
            if states[row] != EXACT:
                break
            i = skip_white(data, i)
            value, i, state = _number(data, i, end)
            i = skip_white(data, i)
            closing = 93 if column == length - 1 else 44
            if state != EXACT or i >= end or data[i] != closing:
                states[row] = OTHER
                break
            values[row, column] = value
            i += 1
        if states[row] == EXACT and i != end:
            states[row] = OTHER


@kernel
def segmentation_kinds(data: np.ndarray, places: np.ndarray, kinds: np.ndarray) -> None:
    """What lies at places (N, 2), by its first bytes, to kinds (N,) uint8.

    0: nothing (absent, null or an empty list). 1: lists in a list. 2: an object. 3: a list of something else. 4: else.
    """
    for row in range(len(places)):
        start = places[row, 0]
        kinds[row] = 0
        if start < 0 or data[start] == 110:
            continue
        if data[start] == 123:
            kinds[row] = 2
        elif data[start] == 91:
            inner = data[skip_white(data, start + 1)]
            kinds[row] = 0 if inner == 93 else 1 if inner == 91 else 3
        else:
            kinds[row] = 4
