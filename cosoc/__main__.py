"""`python -m cosoc` is `cosoc`."""

import sys

from cosoc.cli import main

if __name__ == "__main__":
    sys.exit(main())
