"""``python -m hs_autoptycho``: the command line."""

import sys

from hs_autoptycho._command_line import main

if __name__ == "__main__":
    sys.exit(main())
