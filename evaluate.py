"""Evaluates a trained model; see `python evaluate.py --help`."""

import sys

from minimind.cli.evaluate import main

if __name__ == "__main__":
    sys.exit(main())
