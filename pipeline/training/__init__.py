"""How a network is trained: the tutorial's `epoch()`, the loop around it, and what makes it fast.

`epoch` and `loop` are textbook code. `network` is what they train, `batches` what they feed it.
`onednn` and `cuda_graph` compute the same steps faster; `device`, `randomness` and `state` make a
run repeatable and resumable.

May import `store` (to log metrics) and `data`.
"""
