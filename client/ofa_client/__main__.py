"""``python -m ofa_client`` is ``ofa-caption``."""

import sys

from ofa_client.cli import main

sys.exit(main())
