"""Runs `python -m rlarcade.promote`."""

import sys

from rlarcade.promote import main

if __name__ == "__main__":
    sys.exit(main())
