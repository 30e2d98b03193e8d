"""The same function on very many items in several processes: in order, and no more results or items in memory than needed."""

import multiprocessing
import os
import sys
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

import cv2

from nuriwake.core.errors import RunError
from nuriwake.data.parallel import forking

Item = TypeVar("Item")
Result = TypeVar("Result")

_CHUNK = 16
FEW = 96
"""So few items are done here: starting processes takes longer."""

_function: Callable[[Any], Any] | None = None


def each_process(
    function: Callable[[Item], Result], items: Sequence[Item], *, workers: int | None = None
) -> Generator[Result]:
    """`function(item)` for each of `items`, in order.

    Args:
        function: sent to every process once; it must not raise for an item.
        workers: how many processes; by default one per processor, at most 16, and none for few items.

    Raises:
        RunError: a process died (killed, or out of memory).
    """
    count = (min(16, os.cpu_count() or 1) if len(items) > FEW else 1) if workers is None else workers
    if count <= 1:
        yield from map(function, items)
        return
    # Spawned processes would import the user's script again; forked ones do not.
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    chunks = [items[start : start + _CHUNK] for start in range(0, len(items), _CHUNK)]
    pool = ProcessPoolExecutor(count, context, _start, (function,))
    pending: deque[Future[list[Result]]] = deque()
    try:
        with forking():
            pending.append(pool.submit(_do, chunks[0]))  # starts all processes
        for chunk in chunks[1:]:
            pending.append(pool.submit(_do, chunk))
            if len(pending) >= 4 * count:
                yield from pending.popleft().result()
        while pending:
            yield from pending.popleft().result()
    except BrokenProcessPool as error:
        raise RunError(
            "A process that read images was killed, most often because memory ran out; close other programs, or look for "
            "very large images."
        ) from error
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _start(function: Callable[[Any], Any]) -> None:
    global _function
    _function = function
    if sys.platform != "linux":
        cv2.setNumThreads(1)


def _do(chunk: Sequence[Any]) -> list[Any]:
    assert _function is not None
    return [_function(item) for item in chunk]
