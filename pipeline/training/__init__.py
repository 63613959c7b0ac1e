"""How a network is trained: the tutorial's pass over the data, and the loop around it.

`spec` says what decides a run's numbers, and builds its parts. `epoch` and `loop` are textbook
code; `epochs` is what they measure. `network` is the tutorial's, `batches` what they feed it.
`onednn` and `cuda_graph` compute the same steps faster; `device`, `weights`, `state` and `stateful`
make a run repeatable and resumable.

May import `ablation`, `data`, and the shared module `randomness`: neither files nor the store.
"""
