"""`python -m cli` is `mosaic`."""

import sys

from cli.main import main

sys.exit(main())
