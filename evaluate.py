"""Measures a trained model: `python evaluate.py --help`."""

import sys

from minimind.cli.evaluate import main

if __name__ == "__main__":
    sys.exit(main())
