"""How a network is trained: the tutorial's `epoch()`, the loop around it, and what makes it fast.

`epoch` and `loop` are textbook code. `network` is what they train, `batches` what they feed it.
`onednn` and `cuda_graph` compute the same steps faster; `device`, `weights` and `state` make a run
repeatable and resumable.

May import `ablation`, `store` (to log metrics), `data`, and the shared module `randomness`.
"""
