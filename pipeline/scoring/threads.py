"""Forward passes on a CPU: as many side by side as there are threads, each computed by a single one.

One idea: a product's last bits depend on how many threads share it, so no product is shared. Threads take whole batches
instead, as processes do, and a score depends neither on the machine's cores nor on OMP_NUM_THREADS.

Source: none.
Checked by: tests/scoring/test_scoring_ranks.py.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def batch_map(device: torch.device) -> Iterator[Callable[..., Any]]:
    """Yield a `map` whose results come in order: over threads on a CPU, one after another elsewhere."""
    if device.type != "cpu":
        yield map
        return
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))  # each thread has its own
    try:
        yield pool.map
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)
