"""Run `mosaic` by `python -m mosaic_cli`."""

import sys

from mosaic_cli.main import main

sys.exit(main())
