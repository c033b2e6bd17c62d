"""`python -m rerank_engine`: the command `rerank-engine`."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
