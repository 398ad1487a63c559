"""``python -m monai_sr`` is ``monai-sr``."""

import sys

from .cli.main import main

if __name__ == "__main__":
    sys.exit(main())
