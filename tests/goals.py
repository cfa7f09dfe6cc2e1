"""docs/goals.md: which attack serves which goal. `python -m tests.goals > docs/goals.md` writes it anew."""

from __future__ import annotations

from mohs.cli.attacks import goals_served


def page() -> str:
    rows = goals_served()
    heads = list(rows[0])
    lines = [
        "# Which attack serves which goal",
        "",
        "Against a model of ten classes; `mohs attacks --goals` prints it. The conformance suite runs every yes.",
        "",
        f"| {' | '.join(heads)} |",
        f"|{'---|' * len(heads)}",
        *(f"| {' | '.join(str(row[head]) for head in heads)} |" for row in rows),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(page(), end="")
