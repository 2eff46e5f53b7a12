"""`python -m cli` is `mosaic`."""

import sys

from mosaic_cli.main import main

sys.exit(main())
