#!/usr/bin/env python-real
"""What Slicer runs to fuse stacks: ``monai-sr slicer --fuse``, by the script beside this one."""

import sys

from MonaiSRCLI import main

if __name__ == "__main__":
    sys.exit(main(["--fuse", *sys.argv[1:]]))
