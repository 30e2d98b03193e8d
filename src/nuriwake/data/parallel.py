"""The same function on many files at once, in threads: decoding releases the interpreter lock."""

import os
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import cv2

Item = TypeVar("Item")
Result = TypeVar("Result")


def each(function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """`[function(item) for item in items]` in at most 8 threads, in order. The first error is raised as it is."""
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        futures = [pool.submit(function, item) for item in items]
        try:
            return [future.result() for future in futures]
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


@contextmanager
def forking() -> Generator[None]:
    """Inside, processes may be forked that use OpenCV: with one thread each, as they should be where there are several.

    OpenCV's threads do not survive a fork, but what the child has of their pool does: whatever touches it there, also
    `cv2.setNumThreads`, may wait for ever. So the parent gives its threads up first, and takes new ones afterwards.
    """
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(threads)


def spread(items: Sequence[Item], most: int) -> list[Item]:
    """At most `most` of `items`, evenly spaced, the first and the last among them."""
    if len(items) <= most:
        return list(items)
    return [items[i * (len(items) - 1) // (most - 1)] for i in range(most)]
