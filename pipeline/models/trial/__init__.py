"""Try every variant before any training.

`variants` tries the networks, `recipe` a step with all that trains them, and `repeating` whether a
run can be repeated and continued. `reading` records which files they open.
"""
