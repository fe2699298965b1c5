"""Results and summaries of seeds, in folders and by name."""

import json
import os
import re
import sys

import pytest

from metaq.errors import FormatError, InputError
from metaq.experiments.recipe import load_recipe
from metaq.experiments.seeds import run_seeds
from metaq.report.run_results import read_results


@pytest.fixture
def two_seeds(tmp_path, made_result, write):
    """A folder as `metaq train --seeds 2` leaves it."""

    def run_one(recipe, folder):
        result = made_result(recipe.name, recipe.seed, 1000 + 100 * recipe.seed, 0.99 - 0.01 * recipe.seed)
        write(folder / "result.json", result)
        return result

    def make(name):
        (tmp_path / "run").mkdir()
        recipe = load_recipe(name, ["seed=0"])
        run_seeds(recipe, tmp_path / "run", 2, run_one)
        return tmp_path / "run"

    return make


def test_a_result(tmp_path, made_result, write):
    path = write(tmp_path / "result.json", made_result("lenet5-caffe-hemp-lobster", seed=3))
    (found,) = read_results([path])
    assert (found.network, found.data, found.method) == ("lenet5-caffe", "mnist", "hemp + lobster")
    assert (found.recipe, found.seed, found.file_bytes, found.float32_bytes) == (
        "lenet5-caffe-hemp-lobster",
        3,
        1000,
        177_704,
    )
    assert (found.before, found.after, found.seconds, found.machine) == (0.995, 0.99, 12.5, "a machine")
    assert found.ratio == pytest.approx(177.704)


def test_of_a_text_the_loss_counts(tmp_path, made_result, write):
    (found,) = read_results([write(tmp_path / "x.json", made_result("shakespeare-char", loss=1.5))])
    assert (found.before, found.after) == (0.05, 1.5)


def test_a_diverged_loss_of_images_does_not_matter(tmp_path, made_result, write):
    (found,) = read_results([write(tmp_path / "x.json", made_result(loss=float("nan")))])
    assert found.after == 0.99


def test_folders_are_searched_and_other_json_is_passed_over(tmp_path, made_result, write):
    write(tmp_path / "b" / "c" / "result.json", made_result(file_bytes=1))
    write(tmp_path / "a.json", made_result(file_bytes=2))
    write(tmp_path / "config.json", made_result()["config"])
    write(tmp_path / "list.json", [1, 2])
    (tmp_path / "result.txt").write_text("nonsense")
    (tmp_path / "folder.json").mkdir()
    assert [found.file_bytes for found in read_results([tmp_path])] == [2, 1]


def test_a_result_in_two_places_comes_once(tmp_path, made_result, write):
    first = write(tmp_path / "a.json", made_result())
    write(tmp_path / "b.json", made_result())
    write(tmp_path / "c.json", made_result(seed=1))
    assert [found.seed for found in read_results([tmp_path, first])] == [0, 1]


def test_seeds_come_once_and_with_all_that_is_known(two_seeds):
    folder = two_seeds("lenet5-mnist")
    found = read_results([folder])
    assert [(one.seed, one.machine, one.path.name) for one in found] == [
        (0, "a machine", "result.json"),
        (1, "a machine", "result.json"),
    ]
    assert found[0].setting == found[1].setting


def test_a_summary_by_itself(two_seeds):
    folder = two_seeds("lenet5-mnist")
    for path in folder.glob("seed-*/result.json"):
        path.unlink()
    found = read_results([folder])
    assert [(one.seed, one.file_bytes, one.after, one.float32_bytes) for one in found] == [
        (0, 1000, 0.99, 177_704),
        (1, 1100, 0.98, 177_704),
    ]
    assert found[0].machine is found[0].seconds is None


def test_losses_of_seeds_are_beside_the_summary(two_seeds):
    folder = two_seeds("shakespeare-char")
    assert [one.after for one in read_results([folder / "seeds.json"])] == [0.1, 0.1]
    (folder / "seed-1" / "result.json").unlink()
    with pytest.raises(InputError, match=r"seed-1/result\.json: expected a readable file, found No such file"):
        read_results([folder / "seeds.json"])


def test_without_any(tmp_path, write):
    write(tmp_path / "x.json", {})
    with pytest.raises(InputError, match="expected results of metaq train, found none; train a recipe"):
        read_results([tmp_path])
    with pytest.raises(FormatError, match=r"x\.json: expected a result\.json or seeds\.json .* found other JSON"):
        read_results([tmp_path / "x.json"])
    with pytest.raises(InputError, match="expected a readable file"):
        read_results([tmp_path / "nowhere"])


def test_a_folder_that_cannot_be_read(tmp_path, monkeypatch):
    def walk(path, onerror):
        onerror(PermissionError(13, "Permission denied", str(path)))

    monkeypatch.setattr("metaq.report.run_results.os.walk", walk)
    with pytest.raises(InputError, match="expected a readable folder, found Permission denied"):
        read_results([tmp_path])


def test_a_folder_inside_that_cannot_be_read(tmp_path, made_result, write, monkeypatch, caplog):
    walk = os.walk

    def walk_but_one(path, onerror):
        onerror(PermissionError(13, "Permission denied", str(tmp_path / "closed")))
        return walk(path, onerror=onerror)

    write(tmp_path / "x.json", made_result())
    monkeypatch.setattr("metaq.report.run_results.os.walk", walk_but_one)
    assert len(read_results([tmp_path])) == 1
    expected = f"{tmp_path / 'closed'}: expected a readable folder, found Permission denied; passed over"
    assert [record.getMessage() for record in caplog.records] == [expected]


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("recipe",), 3, "recipe: expected a text, found 3"),
        (("recipe",), " ", "recipe: expected a text, found str"),
        (("machine",), None, "machine: expected a text, found none"),
        (("file_bytes",), "1000", "file_bytes: expected a whole number from 1 to 2^63, found str"),
        (("file_bytes",), 0, "file_bytes: expected a whole number from 1 to 2^63, found 0"),
        (("file_bytes",), True, "file_bytes: expected a whole number from 1 to 2^63, found bool"),
        (("file_bytes",), 10**400, "file_bytes: expected a whole number from 1 to 2^63, found one of more digits"),
        (("float32_bytes",), 1e3, "float32_bytes: expected a whole number from 1 to 2^63, found 1000"),
        (("test_after",), [], "test_after: expected a JSON object, found list"),
        (("test_after",), {}, "test_after: expected the key 'accuracy', found none"),
        (("test_after", "accuracy"), float("nan"), "accuracy: expected a number from 0 to 1, found nan"),
        (("test_after", "accuracy"), "0.99", "accuracy: expected a number from 0 to 1, found str"),
        (("test_before", "accuracy"), 99.1, "accuracy: expected a number from 0 to 1, found 99.1"),
        (("test_before", "accuracy"), -(10**400), "accuracy: expected a number from 0 to 1, found one of more digits"),
        (("seconds",), float("inf"), "seconds: expected a number from 0 to 9.22e+18, found inf"),
        (("config",), "x", "config: expected a JSON object, found str"),
        (("config", "seed"), -1, "seed: expected a whole number from 0 to 2^63, found -1"),
        (("config", "network"), "lenet5", "network: expected a JSON object, found str"),
        (("config", "data"), {}, "data: expected the key 'name', found none"),
        (("config", "method", "name"), {}, "method, name: expected a text, found dict"),
        (("config", "pruning"), None, "pruning: expected a JSON object, found NoneType"),
    ],
)
def test_entries_that_cannot_be(tmp_path, made_result, write, caplog, place, value, message):
    content = made_result()
    inner = content
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    path = write(tmp_path / "result.json", content)
    with pytest.raises(FormatError, match=f"result.json.*{re.escape(message)}"):
        read_results([path])
    write(tmp_path / "whole.json", made_result())
    assert_passed_over(tmp_path, caplog, message)


@pytest.mark.parametrize(
    ("runs", "message"),
    [
        ({}, "runs: expected a list, found dict"),
        ([3], "run 0: expected a JSON object, found int"),
        ([{}], "run 0: expected the key 'seed', found none"),
        ([{"seed": 0, "file_bytes": 10}], "run 0, ratio: expected a number"),
        (
            [{"seed": 0, "file_bytes": 10, "ratio": 1e300}],
            "run 0, ratio: expected a number from 0 to 9.22e+17, found 1e",
        ),
        (
            [{"seed": 0, "file_bytes": 10, "ratio": 2, "test_accuracy_before": 2}],
            "expected a number from 0 to 1, found 2",
        ),
    ],
)
def test_summaries_that_cannot_be(tmp_path, made_result, write, runs, message):
    content = {"recipe": "r", "seeds": 1, "runs": runs, "config": made_result()["config"]}
    with pytest.raises(FormatError, match=re.escape(message)):
        read_results([write(tmp_path / "seeds.json", content)])


@pytest.mark.parametrize("text", ["", "{", '{"recipe": "x"', "[" * 100_000, "1" * 5000, '"\\ud800"', "\xff"])
def test_damaged_json(tmp_path, made_result, write, caplog, text):
    path = tmp_path / "result.json"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(InputError, match=r"result\.json: expected JSON, found something else"):
        read_results([path])
    with pytest.raises(InputError, match="expected results of metaq train, found none"):
        read_results([tmp_path])
    caplog.clear()
    write(tmp_path / "whole.json", made_result())
    assert_passed_over(tmp_path, caplog, "expected JSON, found something else")


def assert_passed_over(folder, caplog, message):
    """That `result.json` is named in one line, with this in it, and `whole.json` beside it is read."""
    assert [found.path.name for found in read_results([folder])] == ["whole.json"]
    (said,) = (record.getMessage() for record in caplog.records)
    assert said.startswith(str(folder / "result.json"))
    assert message in said
    assert said.endswith("; passed over")


def test_a_configuration_of_many_levels(tmp_path, made_result):
    """Of any depth it is taken or refused: also where the parser has just enough room, and what comes then has not."""
    content, messages = json.dumps(made_result()), []
    for levels in range(sys.getrecursionlimit(), 0, -1):
        text = content.replace('"threads": 1', f'"threads": {"[" * levels}{"]" * levels}')
        (tmp_path / "result.json").write_text(text)
        try:
            read_results([tmp_path / "result.json"])
        except (FormatError, InputError) as error:
            messages.append(str(error).partition(": ")[2])
        else:
            break
    assert 0 < len(messages) < levels
    assert messages[0].startswith("expected JSON, found something else")
    assert messages[-1] == "expected a configuration of few levels, found too many"
