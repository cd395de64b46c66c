"""``skipvit-serve`` and ``python -m serve``: the program of serve.cli, once its packages are known to be there."""

import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Serves until told to stop; returns the exit code."""
    try:
        from serve import cli
    except ModuleNotFoundError as error:
        print(f"skipvit-serve: {error.name} is not installed; run: pip install 'skipvit[serve]'", file=sys.stderr)
        return 1
    return cli.main(argv)


if __name__ == "__main__":
    sys.exit(main())
