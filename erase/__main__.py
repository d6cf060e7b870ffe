"""Entry point of the command: finds the packages that were installed together, whatever the working directory holds."""

import sys
from pathlib import Path


def main() -> None:
    """Run the command line; a user's own ``eval.py`` or ``pipelines/`` on the path must not come first."""
    sys.path.insert(0, str(Path(__file__).parent.parent))
    from erase.cli import main as run

    run()


if __name__ == "__main__":
    main()
