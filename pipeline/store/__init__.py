"""The tracking store: everything that is hard about tracking, in one place.

`address` displays MLFLOW_TRACKING_URI, and `initialization` creates and checks the store.
`failures` tells an outage from a lasting fault, for which `advice` says what to do; `waiting` waits
for an outage to end, and `buffer` keeps what is measured meanwhile. `artifacts` writes files whole.
`liveness` finds runs whose process has died, and `relocation` artifacts that were moved or copied.

May import only the shared modules (`upstream`, `interruption`, `config`, `errors`).
"""
