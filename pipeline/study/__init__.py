"""Which runs a study consists of, where they train, and their progress.

`grid` lists the cells and `reuse` finds those that are done; `study` trains the rest, several
in parallel (`parallelism`, `jobs`), and shows `progress`. `compare` reports on runs that were
started one by one.

May import `report`, `runs` and what is below them.
"""
