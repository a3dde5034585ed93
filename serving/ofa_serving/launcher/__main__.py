"""``python -m ofa_serving.launcher`` is ``ofa-serve``."""

import sys

from ofa_serving.launcher.cli import main

sys.exit(main())
