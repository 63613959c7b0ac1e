"""Who trains the runs of a study: processes of this machine, or the workers of a Ray cluster.

`engine` chooses between the two, and `parallelism` how many train at once. `jobs` starts processes
here; `cluster` starts tasks on `nodes`, where `ray_worker` runs them. What is trained and reported
is the same (`tasks`).

May import `runs` and what is below it.
"""
