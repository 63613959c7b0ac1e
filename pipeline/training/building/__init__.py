"""What a run trains, and what trains it, as its ablation says.

`parts` builds the network, the criterion, the optimizer and the schedule; `weights` gives the
parameters that variants share the same start.
"""
