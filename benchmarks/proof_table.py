"""README's table of proofs: every number that was to be met, and what was found."""

from benchmarks.proofs import PROOFS, verdicts_of
from benchmarks.rows import read_rows


def proofs_table() -> str:
    """Markdown: a line a number, from the newest rows of each proof; one that was never run says so."""
    lines = ["| `skipvit-bench` | number | needed | found | | commit |", "|---|---|--:|--:|---|---|"]
    for command in PROOFS:
        rows = read_rows(command)
        if not rows:
            lines.append(f"| {command} | not measured yet | | | | |")
            continue
        for verdict in verdicts_of(command, [{name: _typed(text) for name, text in row.items()} for row in rows]):
            met = "met" if verdict.met else "**missed**"
            cells = [command, verdict.what, verdict.needed, verdict.found, met, rows[0]["commit"]]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _typed(text: str) -> object:
    """A cell as it was measured: a number where it reads as one."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
