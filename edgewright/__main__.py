"""``python -m edgewright``."""

from edgewright.pipeline.cli import main

if __name__ == "__main__":
    main()
