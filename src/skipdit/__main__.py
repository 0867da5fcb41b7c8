"""`python -m skipdit`, and so `torchrun -m skipdit train ...`."""

import sys

from skipdit.cli import main

if __name__ == "__main__":
    sys.exit(main())
