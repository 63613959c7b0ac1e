"""The project's output: models in MLflow's registry, and how good they are.

`export` logs a network as a model, `registry` registers it, `aliases` moves aliases to it,
`loading` loads one after the checks in `safety`, and `evaluation` measures its predictions.

May import `training`, `store` and `data`.
"""
