"""`python -m zoo.catalog` writes the index of the core's models; with --check it only says whether that is up to date."""

import sys

from zoo.authoring.core_index import main

sys.exit(main())
