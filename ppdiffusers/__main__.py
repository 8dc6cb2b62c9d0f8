"""`python -m ppdiffusers`."""

import sys

from ppdiffusers.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
