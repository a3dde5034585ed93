"""Checkpoint in, engines and a deployable model repository out; training and evaluation."""
