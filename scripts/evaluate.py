"""`ppdiffusers evaluate` from a checkout that is not installed: python scripts/evaluate.py CONFIG OUT --data FOLDER."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from ppdiffusers.cli.main import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main(["evaluate", *sys.argv[1:]]))
