"""``ofa-serve``: runs the embedded Triton over built checkpoints, from its checks to its clean stop."""
