"""What a run on a GPU prints at its end."""

import sys
from collections.abc import Mapping

from benchmarks.gpu import Outcome
from benchmarks.rows import print_table

_SAME_FOR_ALL = {"device", "driver", "cuda", "compile_mode", "rounds", "input_sets"}


def tell(outcome: Outcome) -> int:
    """Prints the table, what failed and what was left undone; gives the exit status, 1 where something failed."""
    shown: list[Mapping[str, object]] = [
        {name: value for name, value in row.items() if name not in _SAME_FOR_ALL} for row in outcome.rows
    ]
    if shown:
        print_table(shown)
    for failure in outcome.failures:
        print(f"FAILED {failure}", file=sys.stderr)
    if outcome.undone:
        print(f"The budget is over; {len(outcome.undone)} were not measured: {', '.join(outcome.undone)}")
    if outcome.path is not None:
        print(f"Written: {outcome.path}")
    return 1 if outcome.failures else 0
