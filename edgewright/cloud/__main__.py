"""``python -m edgewright.cloud``: the same as ``edgewright cloud``."""

import sys

from edgewright.errors import EdgewrightError
from edgewright.pipeline.cloud_commands import cloud_app

if __name__ == "__main__":
    try:
        cloud_app()
    except EdgewrightError as e:
        print(f"error: {e}", file=sys.stderr)
        sys.exit(1)
