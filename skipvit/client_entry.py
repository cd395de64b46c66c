"""``skipvit-client``: the program of skipvit.client.cli, once its packages are known to be there."""

import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit code."""
    try:
        from skipvit.client import cli
    except ModuleNotFoundError as error:
        print(f"skipvit-client: {error.name} is not installed; run: pip install 'skipvit[client]'", file=sys.stderr)
        return 1
    return cli.main(argv)


if __name__ == "__main__":
    sys.exit(main())
