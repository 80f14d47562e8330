"""``python -m husai`` is the same program as ``husai``."""

import sys

from husai.cli import main

sys.exit(main())
