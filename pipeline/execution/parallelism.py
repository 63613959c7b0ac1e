"""How many runs of a study to train at once, and with how many threads each."""

from collections.abc import Sequence
from typing import NamedTuple

from pipeline.errors import plural
from pipeline.machine import GIB, free_memory, usable_processors

# Memory of a job besides its images, in bytes: 0.62 to 0.71 GiB were measured (peak proportional
# set size). A test checks the jobs against it.
JOB_MEMORY = int(0.73 * GIB)
Limit = tuple[int, str]  # a number of jobs, and the reason


class Jobs(NamedTuple):
    """How many jobs a study has, and why: `2 jobs: one for each of 2 processors`."""

    number: int
    reason: str


def choose_jobs(
    asked: int, cells: int, threads: int, gpus: int, gpu_share: float, image_bytes: int
) -> Jobs:
    """Choose the number of jobs for a study of `cells` runs here; `asked` is 0 for `auto`.

    `threads` is the number that PyTorch would use for one run; `gpus` is 0 on a CPU. Memory is what
    is free now; each job has its own copy of the images.
    """
    processors, free = usable_processors(), free_memory()
    memory = job_memory(image_bytes)
    needed = f"{free / GIB:.1f} GiB of memory is free, and each takes {memory / GIB:.1f}"
    limits = [
        (processors, for_each(processors, "processor")),
        on_gpus(gpus, gpu_share) if gpus else (threads, for_each(threads, "thread")),
        (max(1, free // memory), needed),
    ]
    return smallest(limits, asked, cells)


def job_memory(image_bytes: int) -> int:
    """The bytes of memory that a job takes, with its own copy of the images."""
    return JOB_MEMORY + image_bytes


def smallest(limits: Sequence[Limit], asked: int, cells: int) -> Jobs:
    """Choose as many jobs as `asked` for, or as the limits allow; at most one for each run."""
    limits = [(asked, "as asked for")] if asked else limits
    number, reason = min([*limits, (cells, for_each(cells, "run"))], key=lambda limit: limit[0])
    return Jobs(number, f"{number} job{'s' if number > 1 else ''}: {reason}")


def on_gpus(gpus: int, share: float) -> Limit:
    """How many runs train at once on so many GPUs, if each takes a share of one."""
    number = gpus * int(1 / share)
    if share < 1:
        return number, f"{plural(gpus, 'GPU')}, {share:g} of one for each run"
    if gpus > 1:
        return number, for_each(gpus, "GPU")
    return number, "a GPU trains one network after the other"


def for_each(number: int, what: str) -> str:
    """Say that there is one job for each of these."""
    return f"one for each of {number} {what}s" if number > 1 else f"there is 1 {what}"


def share_threads(cells: int, jobs: int, threads: int) -> list[int]:
    """Divide the machine's threads among the cells: one number per cell, in running order.

    Cells left over for the last round share all threads. With the same number of jobs, a continued
    study divides them alike: the last bits of a run depend on its number of threads.
    """
    last = cells % jobs
    return [max(1, threads // jobs)] * (cells - last) + [max(1, threads // max(last, 1))] * last
