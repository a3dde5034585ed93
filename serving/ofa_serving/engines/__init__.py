"""Engines run the exported graphs; each file is one way to run them."""
