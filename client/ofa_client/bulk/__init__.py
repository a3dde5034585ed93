"""Captioning data sets: what is read, what is written, and how a run goes on where it was killed."""
