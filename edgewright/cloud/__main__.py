"""``python -m edgewright.cloud``: serve, or register a device and print its token."""

import argparse
import sys
from pathlib import Path

from edgewright.cloud.serve import add_device, serve
from edgewright.errors import EdgewrightError


def main() -> int:
    """Run one command; 1 with one line on stderr where it cannot be done."""
    parser = argparse.ArgumentParser(prog="edgewright.cloud", description=__doc__)
    parser.add_argument("--database", help="SQLAlchemy URL; SQLite below Edgewright's home by default")
    commands = parser.add_subparsers(required=True, dest="command")
    added = commands.add_parser("add-device", help="register a device and print its token, once")
    added.add_argument("name")
    served = commands.add_parser("serve", help="serve until interrupted")
    served.add_argument("--repository", help="release repository that devices are offered releases of")
    served.add_argument("--channel", default="stable")
    served.add_argument("--bundle", type=Path, action="append", default=[], help="folder of a model that answers")
    served.add_argument("--host", default="127.0.0.1")
    served.add_argument("--port", type=int, default=8100)
    options = parser.parse_args()
    try:
        if options.command == "add-device":
            print(add_device(options.name, options.database))
        else:
            serve(
                database=options.database,
                repository=options.repository,
                channel=options.channel,
                bundles=options.bundle,
                host=options.host,
                port=options.port,
            )
    except EdgewrightError as e:
        print(f"error: {e}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
