"""``python -m serve MODELS_DIR``."""

import sys

from serve.cli import main

sys.exit(main())
