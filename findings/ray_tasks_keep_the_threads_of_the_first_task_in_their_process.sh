#!/bin/sh
# GUESS: A task computes with as many threads as it was given processors: Ray sets OMP_NUM_THREADS to
#   its `num_cpus`, which the task finds in its environment.
# REAL: Libraries read the variable once, when they are loaded, and Ray uses a worker process again
#   for tasks that ask for other numbers. So the first task in a process decides for all later ones:
#   a task with two processors uses one thread, and tasks with one processor use two, although
#   OMP_NUM_THREADS says otherwise in each. Which process a task gets is chance; and as sums depend
#   on the number of threads in their last digits, so are these. Set the threads in the task
#   (`threadpool_limits`, `torch.set_num_threads`). An actor has a process of its own.
# VERSIONS: ray 2.60.0, numpy 2.4.6 with its OpenBLAS, threadpoolctl 3.7.0, Python 3.11.7, Linux with
#   two processors or more
# DATE: 2026-12-01
# OUTPUT SEEN:
#   begun with 1: num_cpus=1 OMP_NUM_THREADS=1 threads=1, num_cpus=2 OMP_NUM_THREADS=2 threads=1
#   begun with 2: num_cpus=2 OMP_NUM_THREADS=2 threads=2, num_cpus=1 OMP_NUM_THREADS=1 threads=2
set -eu

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    ray==2.60.0 numpy==2.4.6 threadpoolctl==3.7.0
cd "$folder"

RAY_AUTH_MODE=disabled "$folder/venv/bin/python" - <<'PYTHON'
import sys
import warnings

import ray

warnings.simplefilter("ignore")


@ray.remote
def look():
    import os

    import numpy  # noqa: F401, which loads OpenBLAS
    from threadpoolctl import threadpool_info

    return os.getpid(), os.environ["OMP_NUM_THREADS"], threadpool_info()[0]["num_threads"]


found = []
for first, second in ((1, 2), (2, 1)):
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    seen = [ray.get(look.options(num_cpus=count).remote()) for count in (first, second)]
    ray.shutdown()
    texts = [
        f"num_cpus={count} OMP_NUM_THREADS={variable} threads={threads}"
        for count, (_, variable, threads) in zip((first, second), seen)
    ]
    print(f"begun with {first}: {', '.join(texts)}")
    same_process = seen[0][0] == seen[1][0]
    found.append((same_process, [(variable, threads) for _, variable, threads in seen]))
expected = [(True, [("1", 1), ("2", 1)]), (True, [("2", 2), ("1", 2)])]
sys.exit(0 if found == expected else "this has changed")
PYTHON
