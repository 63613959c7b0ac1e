"""One tracked run, from its beginning to the record of its result.

`training_run` trains a network and `evaluation_run` evaluates a model, each as one MLflow run.
`lifecycle` starts and ends a run, `checkpoint` writes its state, `resume` decides whether it may be
continued, `provenance` and `software` record its origin, and `run_figures` plots it. `queries`
finds runs, as the values of `record`, and `results` reads what came of a finished one.

May import `models`, `training`, `store` and `data`.
"""
