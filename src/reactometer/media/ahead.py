"""Work done ahead of its use, in threads: in order, few items at a time, ended with its user."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Given = TypeVar("Given")
Made = TypeVar("Made")


def map_ahead(function: Callable[[Given], Made], items: Iterable[Given], threads: int) -> Iterator[Made]:
    """``function`` of every item, in order, in so many threads; while one result is used they work at the next ones.

    Items are taken in the user's thread, never more than ``threads`` beyond the one in use. What ``function`` raises is
    raised in its item's turn; what taking an item raises, at once. When the user stops, the threads do.
    """
    waiting: deque[Future[Made]] = deque()
    pool = ThreadPoolExecutor(threads)
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
