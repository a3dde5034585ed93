"""Engines run the exported graphs; each file is one way to run them."""

import sys

# With this package at hand, importing OpenVINO forks a process that reports the import to its makers, and writes into
# the home folder. Without it OpenVINO says nothing.
sys.modules.setdefault("openvino_telemetry", None)
