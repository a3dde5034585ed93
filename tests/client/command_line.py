"""``ofa-caption`` as a user runs it, from the module: the script may not be installed."""

import subprocess
import sys

COMMAND = [sys.executable, "-m", "ofa_client"]


def run(arguments, folder, environment, encoding="utf-8"):
    """Runs it in a folder and gives what it wrote and its exit code."""
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        cwd=folder,
        env=environment,
        capture_output=True,
        encoding=encoding,
        errors="surrogateescape",
        timeout=300,
        check=False,
    )
