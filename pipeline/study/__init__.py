"""Which runs a study consists of, and their progress.

`grid` lists the cells and `reuse` finds those that are done; `study` has the rest trained, and
shows `progress`. `compare` reports on runs that were started one by one.

May import `report`, `execution`, `runs` and what is below them.
"""
