"""Writes the tables of results.md from the JSON of the runs: `python docs/write_results.py`.

A row is one of `metaq report results`, with links to files and the command that trains the network again. Each table
stands below a comment that names it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from metaq.report.recipes import recipe_rows
from metaq.report.run_results import RunResult, read_results
from metaq.report.tables import Row, text
from metaq.report.tasks import task_rows, tasks_of

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "results.md"
AGAIN = ROOT / "benchmarks" / "results" / "recipes_again.json"  # of recipes, which it names and does not repeat
WITHOUT_RESULT = "recipes of which no result is kept"
TABLE = re.compile(r"^<!-- table: (.+) -->\n(?:\n(?:\|.*\n)+)?", re.M)


def tables() -> dict[str, list[Row]]:
    """The rows of each table by its name: of tasks as `metaq report` calls them, and of recipes without a result."""
    results = read_results([ROOT / "results"])
    tasks = tasks_of(results + results_again(results))
    found = {task.title: [page_row(row) for row in task_rows(task)] for task in tasks}
    return found | {WITHOUT_RESULT: rows_without({result.recipe for result in results})}


def results_again(results: Sequence[RunResult]) -> list[RunResult]:
    """What recipes came to on another machine."""
    by_recipe = {result.recipe: result for result in results}
    return [
        replace(
            by_recipe[recipe],
            path=AGAIN,
            float32_bytes=run["float32_bytes"],
            file_bytes=run["file_bytes"],
            before=run["test_before"]["accuracy"],
            after=run["test_after"]["accuracy"],
            seconds=run.get("seconds"),
            machine=run.get("machine"),
        )
        for recipe, run in json.loads(AGAIN.read_text())["runs"].items()
    ]


def page_row(row: Row) -> Row:
    """A row of `metaq report` as the page has it: of a result, or of what others have published."""
    figures = {key: row[key] for key in row if key not in ("recipe or source", "seed", "result", "remark")}
    figures |= {key: row.get(key, "") for key in ("seconds", "machine")}  # which tasks without any have no columns for
    if not row["result"]:
        return {"file or source": row["recipe or source"], **figures, "command": "", "run": "", "remark": row["remark"]}
    path = Path(row["result"]).relative_to(ROOT)
    file = path.with_suffix(".mtq")
    return {
        "file or source": link(file) if (ROOT / file).exists() else "not kept",
        **{key: "not recorded" if value == "" else value for key, value in figures.items()},
        "command": f"`metaq train {row['recipe or source']}`",
        "run": link(path),
        "remark": "again, on another machine" if ROOT / path == AGAIN else "",
    }


def rows_without(recipes: set[str]) -> list[Row]:
    """A row for each recipe that is none of these."""
    rows = [dict(row) for row in recipe_rows() if row["recipe"] not in recipes]
    return [{"command": f"`metaq train {row.pop('recipe')}`", **row} for row in rows]


def link(path: Path) -> str:
    """A link from the page to a file, by its path in the repository."""
    return f"[{path.name}](../{path})"


def written(page: str, rows: Mapping[str, Sequence[Row]]) -> str:
    """The page with these tables, each below the comment that names it."""
    names = TABLE.findall(page)
    if sorted(names) != sorted(rows):
        raise SystemExit(f"{PAGE}: expected one comment for each of {sorted(rows)}, found {sorted(names)}")
    return TABLE.sub(lambda found: f"<!-- table: {found[1]} -->\n\n{markdown(rows[found[1]])}", page)


def markdown(rows: Sequence[Row]) -> str:
    """Rows of the same keys as a table of Markdown."""
    lines = [list(rows[0]), *([text(value).replace("%", " %") for value in row.values()] for row in rows)]
    head, *body = (f"| {' | '.join(cells)} |\n" for cells in lines)
    return f"{head}{'|---' * len(rows[0])}|\n{''.join(body)}"


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(), tables()))
