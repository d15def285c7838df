"""``python -m edgewright.cloud``: the same as ``edgewright cloud``."""

import sys

from edgewright.cloud.commands import cloud_app
from edgewright.errors import EdgewrightError

if __name__ == "__main__":
    try:
        cloud_app()
    except EdgewrightError as e:
        print(f"error: {e}", file=sys.stderr)
        sys.exit(1)
