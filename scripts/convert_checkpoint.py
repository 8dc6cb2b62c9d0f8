"""`ppdiffusers convert` without an installation: python scripts/convert_checkpoint.py SOURCE TARGET [options]"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from ppdiffusers.cli.main import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main(["convert", *sys.argv[1:]]))
