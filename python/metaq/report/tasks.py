"""Results by task: a network and its data, what runs made of them, how seeds vary, and what others have published."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from metaq.report.measures import ACCURACY, Measure, measure_of
from metaq.report.published import PublishedPoint, published_points
from metaq.report.run_results import RunResult
from metaq.report.tables import Row

TEXT_COLUMNS = "recipe or source", "method", "machine", "result", "remark"
"""The columns of `task_rows` that hold no figures."""

_FIGURES = "file_bytes", "before", "after"  # of a result, and, with mean and deviation, of several seeds


@dataclass(frozen=True)
class Statistic:
    """Mean of a figure over seeds, and deviation of a sample: squares are divided by the number of seeds less one."""

    mean: float
    deviation: float


@dataclass(frozen=True)
class SeedGroup:
    """The results of one recipe in one setting, with several seeds."""

    results: list[RunResult]

    @property
    def recipe(self) -> str:
        """The recipe that all of them have."""
        return self.results[0].recipe

    @property
    def file_bytes(self) -> Statistic:
        """Of the files' sizes."""
        return _statistic([result.file_bytes for result in self.results])

    @property
    def before(self) -> Statistic:
        """Of the measures of the float networks."""
        return _statistic([result.before for result in self.results])

    @property
    def after(self) -> Statistic:
        """Of the measures of the networks in the files."""
        return _statistic([result.after for result in self.results])


@dataclass(frozen=True)
class Task:
    """A network on its data.

    Attributes:
        results: at least one, by size.
        groups: those with several seeds.
        published: by size.
    """

    network: str
    data: str
    measure: Measure
    results: list[RunResult]
    groups: list[SeedGroup]
    published: list[PublishedPoint]

    @property
    def title(self) -> str:
        """What the task is called."""
        return f"{self.network} on {self.data}"


def tasks_of(results: Sequence[RunResult]) -> list[Task]:
    """The tasks of which there are results, by name."""
    by_task: dict[tuple[str, str], list[RunResult]] = {}
    for result in sorted(results, key=lambda result: (result.network, result.data, result.file_bytes, result.seed)):
        by_task.setdefault((result.network, result.data), []).append(result)
    return [_task(network, data, own) for (network, data), own in by_task.items()]


def task_rows(task: Task) -> list[Row]:
    """A row for each result, each group of seeds and each published point, by size, as texts and numbers."""
    sized = [(float(result.file_bytes), _result_row(task, result)) for result in task.results]
    sized += [(group.file_bytes.mean, _group_row(task, group)) for group in task.groups]
    sized += [(float(point.size_bytes), _published_row(task, point)) for point in task.published]
    rows = [row for _, row in sorted(sized, key=lambda pair: pair[0])]
    columns = [column for column in _columns(task.measure) if any(column in row for row in rows)]
    return [{key: row.get(key, "") for key in columns} for row in rows]


def task_entries(task: Task) -> dict[str, Any]:
    """All of a task as JSON has it."""
    return {
        "network": task.network,
        "data": task.data,
        "measure": task.measure.key,
        "results": [_result_entries(result) for result in task.results],
        "seeds": [_group_entries(group) for group in task.groups],
        "published": [asdict(point) for point in task.published],
    }


def _task(network: str, data: str, results: list[RunResult]) -> Task:
    by_setting: dict[tuple[str, str], list[RunResult]] = {}
    for result in sorted(results, key=lambda result: result.seed):
        by_setting.setdefault((result.recipe, result.setting), []).append(result)
    groups = [SeedGroup(own) for own in by_setting.values() if len({result.seed for result in own}) > 1]
    measure = measure_of(data)
    published = published_points(network, data) if measure is ACCURACY else []
    return Task(network, data, measure, results, groups, published)


def _result_entries(result: RunResult) -> dict[str, Any]:
    entries = asdict(result) | {"path": str(result.path), "ratio": result.ratio}
    return {key: value for key, value in entries.items() if key not in ("network", "data", "setting")}


def _group_entries(group: SeedGroup) -> dict[str, Any]:
    figures = {name: asdict(getattr(group, name)) for name in _FIGURES}
    return {"recipe": group.recipe, "seeds": [result.seed for result in group.results], **figures}


def _columns(measure: Measure) -> tuple[str, ...]:
    figures = "bytes", "ratio", measure.title, "float network", "seed", "seconds"
    return ("recipe or source", "method", *figures, "machine", "result", "remark")


def _statistic(values: Sequence[float]) -> Statistic:
    return Statistic(statistics.mean(values), statistics.stdev(values))


def _result_row(task: Task, result: RunResult) -> Row:
    row = {
        "recipe or source": result.recipe,
        "method": result.method,
        "bytes": result.file_bytes,
        "ratio": result.ratio,
        task.measure.title: task.measure.text(result.after),
        "float network": task.measure.text(result.before),
        "seed": str(result.seed),
        "seconds": None if result.seconds is None else round(result.seconds),
        "machine": result.machine,
        "result": str(result.path),
    }
    return {key: value for key, value in row.items() if value is not None}


def _group_row(task: Task, group: SeedGroup) -> Row:
    measure = task.measure

    def shown(figure: Statistic) -> str:
        return f"{measure.text(figure.mean)} ± {measure.difference_text(figure.deviation)}"

    size = group.file_bytes
    return {
        "recipe or source": group.recipe,
        "method": group.results[0].method,
        "bytes": f"{size.mean:,.0f} ± {size.deviation:,.0f}",
        "ratio": group.results[0].float32_bytes / size.mean,
        measure.title: shown(group.after),
        "float network": shown(group.before),
        "seed": f"mean of {len(group.results)}",
        "remark": "± one deviation",
    }


def _published_row(task: Task, point: PublishedPoint) -> Row:
    row = {
        "recipe or source": point.title,
        "method": point.method,
        "bytes": point.size_bytes,
        task.measure.title: task.measure.text(point.accuracy),
        "remark": "; ".join(filter(None, ("published", point.variant, point.remark))),
    }
    return row if point.variant else row | {"ratio": task.results[0].float32_bytes / point.size_bytes}
