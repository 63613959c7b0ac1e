"""The tracking store: everything that is hard about tracking, in one place.

`address` displays MLFLOW_TRACKING_URI, and `initialization` creates and checks the store.
`outages` tells an outage from a lasting fault, and waits for its end; `uploads` sends what a run
logs, from a thread. `artifacts` writes files whole. `tags` is what a run says of itself, `lookup`
finds runs, and `interface` shows them. `liveness` finds runs whose process has died, and `moving`
artifacts that were moved or copied.

May import only the shared modules (`upstream`, `interruption`, `config`, `errors`).
"""
