"""``python -m gradlab``, which ``torchrun -m gradlab`` starts as well."""

import sys

from gradlab.cli import main

if __name__ == "__main__":
    sys.exit(main())
