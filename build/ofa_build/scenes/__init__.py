"""Captioned scenes of emoji art, drawn without end: what the bundled checkpoint is trained on and tested with."""
