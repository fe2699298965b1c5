"""What runs of recipes came to: their result files and summaries of seeds, found in folders and checked."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metaq.errors import FormatError, InputError, MetaqError
from metaq.experiments.run import RESULT
from metaq.files import read_json
from metaq.report.measures import ACCURACY, Measure, measure_of
from metaq.report.recipes import method_names

_RESULT_KEYS = "recipe", "float32_bytes", "file_bytes", "test_before", "test_after", "config"
_SUMMARY_KEYS = "recipe", "seeds", "runs", "config"
_MOST = (1 << 63) - 1

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunResult:
    """One network that a run trained and compressed, before and after.

    Attributes:
        path: the file that says so.
        setting: the run's whole configuration but for its seed, as one text.
        before, after: the task's measure (`metaq.report.measures`) on the test set.
        seconds, machine: of its training; None where a summary of seeds does not say them.
    """

    path: Path
    recipe: str
    network: str
    data: str
    method: str
    seed: int
    setting: str
    float32_bytes: int
    file_bytes: int
    before: float
    after: float
    seconds: float | None = None
    machine: str | None = None

    @property
    def ratio(self) -> float:
        """How many times smaller the file is than float32 weights."""
        return self.float32_bytes / self.file_bytes


def read_results(paths: Sequence[Path]) -> list[RunResult]:
    """The results of files and of all that folders hold, in the order of their paths; what is found twice comes once.

    Files of JSON in folders that are no results are passed over, and so is, with a warning, what is damaged there: one
    stopped run among many does not take the others' picture away.

    Raises:
        InputError: a path is missing or cannot be read, or there is no result.
        FormatError: a named file is no result, or has an entry that cannot be.
    """
    found: list[RunResult] = []
    for path in paths:
        if path.is_dir():
            found += [result for file in _json_files(path) for result in _results_if_whole(file)]
        else:
            results = _results_of(path, read_json(path))
            if results is None:
                raise FormatError(f"{path}: expected a result.json or seeds.json of metaq train, found other JSON")
            found += results
    if not found:
        where = ", ".join(map(str, paths))
        raise InputError(f"{where}: expected results of metaq train, found none; train a recipe, or name other folders")
    return _distinct(found)


def check_keys(found: Any, keys: Sequence[str], where: str) -> dict[str, Any]:
    """A JSON object that has at least these keys.

    Raises:
        FormatError: it is none, or a key is missing.
    """
    if not isinstance(found, dict):
        raise FormatError(f"{where}: expected a JSON object, found {type(found).__name__}")
    missing = [key for key in keys if key not in found]
    if missing:
        raise FormatError(f"{where}: expected the key {missing[0]!r}, found none")
    return found


def _json_files(folder: Path) -> Iterator[Path]:
    def tell(error: OSError) -> None:
        message = f"{error.filename}: expected a readable folder, found {error.strerror}"
        if Path(error.filename) == folder:
            raise InputError(message)
        _log.warning("%s; passed over", message)

    for place, folders, names in os.walk(folder, onerror=tell):
        folders.sort()
        yield from (
            Path(place, name) for name in sorted(names) if name.endswith(".json") and Path(place, name).is_file()
        )


def _results_if_whole(path: Path) -> list[RunResult]:
    """None of what is no result, and, with a warning, of what is damaged."""
    try:
        return _results_of(path, read_json(path)) or []
    except MetaqError as error:
        _log.warning("%s; passed over", error)
        return []


def _results_of(path: Path, found: Any) -> list[RunResult] | None:
    """None of what is neither a result nor a summary of seeds."""
    if not isinstance(found, dict):
        return None
    try:
        if all(key in found for key in _RESULT_KEYS):
            return [_result(path, found)]
        if all(key in found for key in _SUMMARY_KEYS):
            return _summary(path, found)
    except RecursionError:
        raise FormatError(f"{path}: expected a configuration of few levels, found too many") from None
    return None


def _result(path: Path, found: dict[str, Any]) -> RunResult:
    config = _config(found, str(path))
    measure = measure_of(config["data"]["name"])
    return RunResult(
        path=path,
        seed=_count(config, "seed", f"{path}, config", 0),
        float32_bytes=_count(found, "float32_bytes", str(path)),
        file_bytes=_count(found, "file_bytes", str(path)),
        before=_measured(found, "test_before", measure, str(path)),
        after=_measured(found, "test_after", measure, str(path)),
        seconds=_number(found, "seconds", str(path)),
        machine=_text(found, "machine", str(path)),
        **_experiment(found, config, str(path)),
    )


def _summary(path: Path, found: dict[str, Any]) -> list[RunResult]:
    """The runs of a summary of seeds."""
    config = _config(found, str(path))
    if not isinstance(found["runs"], list):
        raise FormatError(f"{path}, runs: expected a list, found {type(found['runs']).__name__}")
    has_measure = measure_of(config["data"]["name"]) is ACCURACY
    results: list[RunResult] = []
    for number, run in enumerate(found["runs"]):
        where = f"{path}, run {number}"
        seed = _count(check_keys(run, ("seed",), where), "seed", where, 0)
        if has_measure:
            results.append(_summarised(path, run, seed, where, _experiment(found, config, str(path))))
        else:
            own = path.parent / f"seed-{seed}" / RESULT
            results.append(_result(own, check_keys(read_json(own), _RESULT_KEYS, str(own))))
    return results


def _summarised(path: Path, run: dict[str, Any], seed: int, where: str, experiment: dict[str, Any]) -> RunResult:
    size_bytes = _count(run, "file_bytes", where)
    return RunResult(
        path=path,
        seed=seed,
        float32_bytes=round(_number(run, "ratio", where, _MOST / size_bytes) * size_bytes),
        file_bytes=size_bytes,
        before=_number(run, "test_accuracy_before", where, 1),
        after=_number(run, "test_accuracy", where, 1),
        **experiment,
    )


def _config(found: dict[str, Any], where: str) -> dict[str, Any]:
    config = check_keys(found["config"], ("seed", "network", "data", "method"), f"{where}, config")
    for section in ("network", "data", "method", "pruning"):
        if section in config:
            _text(check_keys(config[section], ("name",), f"{where}, {section}"), "name", f"{where}, {section}")
    return config


def _experiment(found: dict[str, Any], config: dict[str, Any], where: str) -> dict[str, Any]:
    setting = {key: value for key, value in config.items() if key != "seed"}
    return {
        "recipe": _text(found, "recipe", where),
        "network": config["network"]["name"],
        "data": config["data"]["name"],
        "method": method_names(config),
        "setting": json.dumps(setting, sort_keys=True),
    }


def _measured(found: dict[str, Any], key: str, measure: Measure, where: str) -> float:
    figures = check_keys(found[key], (measure.key,), f"{where}, {key}")
    return _number(figures, measure.key, f"{where}, {key}", measure.most)


def _text(tree: dict[str, Any], key: str, where: str) -> str:
    value = tree.get(key)
    if not isinstance(value, str) or not value.strip():
        raise FormatError(f"{where}, {key}: expected a text, found {_shown(value)}")
    return value


def _count(tree: dict[str, Any], key: str, where: str, least: int = 1) -> int:
    value = tree.get(key)
    if type(value) is not int or not least <= value <= _MOST:
        raise FormatError(f"{where}, {key}: expected a whole number from {least} to 2^63, found {_shown(value)}")
    return value


def _number(tree: dict[str, Any], key: str, where: str, most: float = _MOST) -> float:
    value: Any = tree.get(key)
    if type(value) not in (int, float) or not 0 <= value <= most:  # NaN is not between numbers
        raise FormatError(f"{where}, {key}: expected a number from 0 to {most:.3g}, found {_shown(value)}")
    return float(value)


def _shown(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f"{value:.4g}" if isinstance(value, float) or abs(value) <= _MOST else "one of more digits"
    return type(value).__name__


def _distinct(results: Sequence[RunResult]) -> list[RunResult]:
    """Without copies, such as the entries of a summary whose runs are there too; those that say more come first."""

    def identity(result: RunResult) -> tuple[Any, ...]:
        return result.recipe, result.setting, result.seed, result.file_bytes, result.before, result.after

    distinct: dict[tuple[Any, ...], RunResult] = {}
    for result in sorted(results, key=lambda result: result.machine is None):
        distinct.setdefault(identity(result), result)
    return list(distinct.values())
