"""A guard against work that grows out of hand: it bounds what a block of code computes, not how long it waits."""
from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def at_most(
    seconds: float,     # of this thread's processor
) -> Iterator[None]:
    "Fails if the block computes longer. What thousands of other tests have left behind is not collected meanwhile."
    collecting = gc.isenabled()
    gc.disable()
    try:
        began = time.thread_time()
        yield
        taken = time.thread_time() - began
    finally:
        if collecting: gc.enable()
    assert taken < seconds, f"it took {taken:.1f} seconds of this thread, not less than {seconds}"
