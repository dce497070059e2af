"""How the threads of a parallel region wait for the next one: they spin for a moment, then sleep.

One idea: by default OpenMP's threads spin for milliseconds. On a busy machine a spinning thread holds the very core
that the thread it waits for needs, and a training step takes many times as long. Sleeping at once is best there, and
slows an idle machine where regions are short, for waking up takes as long as a small product. A bound of about a
millisecond loses little of either (`python -m benchmarks.waiting` measures all three). The runtime reads the variables
once, when torch loads it: whoever starts a process of ours sets them first, and a policy that is set already stays.

Source: OpenMP 5.2, OMP_WAIT_POLICY; GOMP_SPINCOUNT of GNU's runtime; KMP_BLOCKTIME, in milliseconds, of LLVM's.
Checked by: tests/launching/test_openmp.py.
"""

from collections.abc import MutableMapping

POLICY = "OMP_WAIT_POLICY"
WAITING = {POLICY: "PASSIVE", "GOMP_SPINCOUNT": "20000", "KMP_BLOCKTIME": "1"}
"""Variable -> value."""


def wait_briefly(environment: MutableMapping[str, str]) -> None:
    """Set how threads wait in `environment`, unless it names a policy."""
    if POLICY not in environment:
        environment.update(WAITING)
