"""One run of somebody's program: a command, a function, or an MLproject's entry point.

`run` creates the MLflow run, starts the program, which joins it, and ends the run with its true
status. `commands` is what is started, `environment` in which, and `process` keeps hold of it by
`supervisor`, a process in between; `function` is the process of a function. `outcomes` reads what
the program has logged, `strays` finds what it has logged to other runs, and `inputs` says what its
numbers depend on.

Imports no torch, which a program's run does without. May import `store` and `ablation`.
"""
