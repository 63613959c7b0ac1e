"""How many runs of a study to train at once, and with how many threads each."""

from typing import NamedTuple

from pipeline.machine import GIB, free_memory, usable_processors

# Memory of a job besides its images, in bytes: 0.62 to 0.71 GiB were measured (peak proportional
# set size). A test checks the jobs against it.
JOB_MEMORY = int(0.73 * GIB)


class Jobs(NamedTuple):
    """How many jobs a study has, and why: `2 jobs: one for each of 2 processors`."""

    number: int
    reason: str


def choose_jobs(asked: int, cells: int, threads: int, on_gpu: bool, image_bytes: int) -> Jobs:
    """Choose the number of jobs for a study of `cells` runs; `asked` is 0 for `auto`.

    `threads` is the number that PyTorch would use for one run. Memory is what is free now; each job
    has its own copy of the images.
    """
    limits = [(asked, "as asked for")]
    if not asked and on_gpu:
        limits = [(1, "a GPU trains one network after the other")]
    elif not asked:
        processors, free = usable_processors(), free_memory()
        memory = JOB_MEMORY + image_bytes
        needed = f"{free / GIB:.1f} GiB of memory is free, and each takes {memory / GIB:.1f}"
        limits = [
            (processors, _for_each(processors, "processor")),
            (threads, _for_each(threads, "thread")),
            (max(1, free // memory), needed),
        ]
    limits.append((cells, _for_each(cells, "run")))
    number, reason = min(limits, key=lambda limit: limit[0])
    return Jobs(number, f"{number} job{'s' if number > 1 else ''}: {reason}")


def _for_each(number: int, what: str) -> str:
    return f"one for each of {number} {what}s" if number > 1 else f"there is 1 {what}"


def share_threads(cells: int, jobs: int, threads: int) -> list[int]:
    """Divide the machine's threads among the cells: one number per cell, in running order.

    Cells left over for the last round share all threads. With the same number of jobs, a continued
    study divides them alike: the last bits of a run depend on its number of threads.
    """
    last = cells % jobs
    return [max(1, threads // jobs)] * (cells - last) + [max(1, threads // max(last, 1))] * last
