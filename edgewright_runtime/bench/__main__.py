"""``python -m edgewright_runtime.bench``; see `edgewright_runtime.bench.run.main`."""

import sys

from edgewright_runtime.bench.run import main

if __name__ == "__main__":
    sys.exit(main())
