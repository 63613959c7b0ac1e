"""How PyTorch's threads wait for each other: chosen before torch is imported, which reads it once.

They wait thousands of times a second. GNU's OpenMP, which PyTorch has on Linux, lets them spin for
a while before they sleep. On an idle machine longer spinning makes a run up to a fifth faster; next
to a busy process slower, by a seventh with `LONG` and by up to two thirds with OpenMP's own
(docs/LOG.md).
"""

import os
import sys

import psutil

from pipeline.machine import idle_processors, usable_processors

SPINS, POLICY = "GOMP_SPINCOUNT", "OMP_WAIT_POLICY"
SHORT, LONG = "1000", "5000"
WHY = "PIPELINE_SPINNING"  # set if the choice is ours; processes that this one starts inherit it
# Of one processor. What takes less, such as a browser, costs less than short spinning does.
TOLERATED = 0.5


def spin_shortly() -> None:
    """Spin for a short time, which suits any machine; unless the user has chosen."""
    if sys.platform == "linux" and not {SPINS, POLICY} & os.environ.keys():
        os.environ |= {SPINS: SHORT, WHY: "short"}


def spin_if_idle() -> None:
    """Spin for longer if this machine has an idle processor for each thread; it takes 0.1 s to see.

    A container's quota counts too.
    """
    if WHY not in os.environ:
        return
    given = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()  # it may list levels
    threads = int(given) if given.isdecimal() else _cores()  # as OpenMP does
    idle = idle_processors()
    is_idle = idle >= threads - TOLERATED
    os.environ[SPINS] = LONG if is_idle else SHORT
    how = "long" if is_idle else "short"
    os.environ[WHY] = f"{how}: {idle:.1f} processors were idle, for {threads} threads"


def describe_spinning(threads: int) -> str:
    """Say how the threads of a run wait, for its tag."""
    if threads == 1:
        return "none: a single thread does not wait"
    given = [f"{name}={os.environ[name]}" for name in (SPINS, POLICY) if name in os.environ]
    return os.environ.get(WHY) or (f"as given: {given[0]}" if given else "OpenMP's own")


def _cores() -> int:
    # PyTorch takes no more threads than this.
    return min(psutil.cpu_count(logical=False) or 1, usable_processors())
