"""The figures in README.md and docs/ are those of the committed results, to the digits that the documents give."""

import json
import re
import tomllib
from pathlib import Path

import pytest

from metaq.compressed_model import encode, read_model
from metaq.format.reader import Reader
from metaq.report.coder_sizes import coder_rows

ROOT = Path(__file__).parents[2]
PATH = re.compile(r"`((?:benchmarks|docs|examples|python|results|src|tests)/[\w./-]*\w)`")


def text_of(page):
    return (ROOT / page).read_text()


def result(name):
    return json.loads((ROOT / name).read_text())


def cells(page, *starts):
    """The cells behind the first ones, of the one row of a page's tables that begins with these."""
    rows = [[cell.strip(" *`") for cell in line.strip("|").split("|")] for line in text_of(page).split("\n")]
    found = [row[len(starts) :] for row in rows if tuple(row[: len(starts)]) == starts]
    assert len(found) == 1, f"{page}: {len(found)} rows begin with {starts}"
    return found[0]


def percent(share):
    return f"{100 * share:.2f} %"


@pytest.mark.parametrize(
    ("network", "recipe"),
    [
        ("LeNet-5 (44 k)", "lenet5-mnist"),
        ("LeNet-5 of Caffe (431 k)", "lenet5-caffe-mnist"),
        ("LeNet-300-100 (267 k)", "lenet300-mnist"),
    ],
)
def test_mnist(network, recipe):
    run = result(f"results/{recipe}.json")
    before, after = (percent(run[f"test_{when}"]["accuracy"]) for when in ("before", "after"))
    sizes = [f"{run['float32_bytes']:,} B", f"{run['file_bytes']:,} B"]
    found = cells("README.md", network)
    assert found[:2] + found[3:5] == [*sizes, before, after]
    assert abs(int(found[2].replace(",", "")) - run["ratio"]) < 1


@pytest.mark.parametrize(
    ("network", "name"),
    [
        ("ResNet-20, 5,000 test images of CIFAR-10's JPEG copy", "resnet20"),
        ("EfficientNet-Lite0, 600 ImageNet images", "efficientnet"),
        ("MiniLM trained on SST-2, 1,821 test sentences", "minilm"),
    ],
)
def test_what_binding_costs(network, name):
    (row,) = result(f"benchmarks/results/start_error_{name}.json")["rows"]
    accuracies = [percent(row["accuracy_float"]), percent(row["accuracy"])]
    assert cells("docs/methods/metaq.md", network) == [f"{row['bits_per_weight']:.2f} bits a weight", *accuracies]
    assert row["points_lost"] <= 0.5


@pytest.mark.parametrize("path", sorted((ROOT / "results").glob("*.json")), ids=lambda path: path.stem)
def test_trained_results(path):
    run = json.loads(path.read_text())
    expected = [*figures_of(run), f"metaq train {run['recipe']}", f"[{path.name}](../results/{path.name})", ""]
    if path.with_suffix(".mtq").exists():
        found = cells("docs/results.md", f"[{path.stem}.mtq](../results/{path.stem}.mtq)")[1:]
    else:
        found = [expected[0], *cells("docs/results.md", "not kept", "metaq", expected[0])]
    assert found == expected
    data = run["config"]["data"]
    names = {
        "mnist": " of MNIST",
        "cifar10-jpeg": " of the JPEG copy",
        "digits": " of the digits",
        "tinyshakespeare": "",
    }
    of = names[data["name"]]
    assert not of or f"{data['held_out']:,}{of}" in text_of("docs/results.md")


@pytest.mark.parametrize("recipe", ["lenet5-mnist", "lenet5-caffe-mnist", "lenet300-mnist"])
def test_trained_results_of_another_machine(recipe):
    run = result("benchmarks/results/recipes_again.json")["runs"][recipe]
    found = cells("docs/results.md", "not kept", "metaq", f"{run['file_bytes']:,}")
    name = "recipes_again.json"
    links = f"metaq train {recipe}", f"[{name}](../benchmarks/results/{name})"
    assert found == [*figures_of(run)[1:], *links, "again, on another machine"]


def figures_of(run):
    """Bytes, ratio, accuracy of the file and of the float network, seconds and machine."""
    ratio = run["float32_bytes"] / run["file_bytes"]
    tests = [run[f"test_{when}"] for when in ("after", "before")]
    is_text = run["config"]["data"]["name"] == "tinyshakespeare" if "config" in run else False
    accuracies = [f"{test['loss']:.4f}" if is_text else percent(test["accuracy"]) for test in tests]
    shown = f"{ratio:,.0f}" if ratio >= 1000 else f"{ratio:.4g}"
    return [f"{run['file_bytes']:,}", shown, *accuracies, f"{run['seconds']:,.0f}", run["machine"]]


SHAKESPEARE = "benchmarks/results/post_training_shakespeare.json"


@pytest.mark.parametrize("method", ["metaq-no-data", "metaq-moments", "nearest-groups", "gptq", "scalar", "watersic"])
def test_characters_without_training(method):
    rows = [row for row in result(SHAKESPEARE)["rows"] if row["method"] == method]
    spelled = {row["setting"]: f"{row['loss']:.4f}, {row['bytes']:,} B" for row in rows}
    expected = [*(spelled.get(setting, "") for setting in (1, 1.5, 2, 3, 4)), "yes" if rows[0]["is_file"] else "no"]
    assert cells("docs/results.md", method) == expected
    readme = " ".join(text_of("README.md").split())
    run = result("results/shakespeare-char.json")
    losses = [f"{run[when]['loss']:.4f}" for when in ("test_after", "test_before")]
    assert (
        f"takes {run['file_bytes']:,} bytes, a thirty-third, at a loss of {losses[0]}; in float it has {losses[1]}"
        in readme
    )
    if method == "metaq-moments":
        best = min(row["loss"] for row in result(SHAKESPEARE)["rows"] if row["setting"] == 1)
        assert f"gives at that size is {best:.4f}" in readme


def test_resnet20_trained():
    run = result("results/resnet20-cifar10-jpeg.json")
    after, before = (percent(run[f"test_{when}"]["accuracy"]) for when in ("after", "before"))
    words = f"takes {run['file_bytes']:,} bytes, a fortieth, at {after}; in float it has {before}."
    assert words in " ".join(text_of("README.md").split())
    assert run["ratio"] == pytest.approx(40, rel=0.01)
    rows = result("benchmarks/results/post_training_resnet20_trained.json")["rows"]
    found = [row for row in rows if row["method"] == "metaq-moments" and row["setting"] in (1, 1.5, 2)]
    one, *others = [f"{row['bytes']:,} bytes at {percent(row['accuracy'])}" for row in found]
    words = f"{one}, {others[0]} and {others[1]}".replace(" bytes at", " at").replace(" at", " bytes at", 1)
    assert words in " ".join(text_of("docs/results.md").split())


def test_published_results():
    points = tomllib.loads(text_of("python/metaq/report/published.toml"))["point"]
    headings = {"lenet5": "## LeNet-5 on MNIST", "lenet5-caffe": "## LeNet-5 of Caffe", "lenet300": "## LeNet-300-100"}
    for point in points:
        if point["data"] == "mnist":
            section = text_of("docs/results.md").split(headings[point["network"]])[1].split("\n## ")[0]
            figures = f"| {point['method']} | {point['size_bytes']:,} | "
            (row,) = (line for line in section.split("\n") if figures in line)
            assert row.startswith(f"| {point['source']}")
            assert f"| {percent(point['accuracy'])} |" in row


def test_the_demo():
    run = result("results/lenet5-digits.json")
    before, after = (percent(run[f"test_{when}"]["accuracy"]) for when in ("before", "after"))
    assert f"{before} of 360 test images before, {after} after" in " ".join(text_of("README.md").split())
    model = read_model(Reader((ROOT / "results" / "lenet5-digits.mtq").read_bytes()))
    sizes = {row["coder"]: f"{row['bytes']:,} B" for row in coder_rows(model)}
    named = ["huffman", "gzip", "lzma", "zstd", "range", "rans", "zero-order entropy, no tables, no header", "mixing"]
    first, *others = [sizes[name] for name in named]
    assert cells("README.md", f"{run['float32_bytes']:,} B", first) == others


def test_coders_on_a_resnet():
    rows = [row for row in result("benchmarks/results/coding.json")["results"] if row["symbol_set"] == "resnet32-3bit"]
    sizes = {row["coder"]: f"{row['size_bytes']:,}" for row in rows}
    names = {name: name for name in ("mixing", "adaptive", "brotli-11", "zstd-22", "range", "Huffman")} | {
        "rANS": "rans"
    }
    found = " ".join(text_of("README.md").split())
    for spelled, coder in names.items():
        assert f"{spelled} {sizes[coder]}" in found
    assert f"entropy {rows[0]['zero_order_bytes']:,.0f} bytes" in found
    speeds = {row["coder"]: row["speeds"][0]["decode_mega_weights_per_second"] for row in rows if row["speeds"]}
    assert f"adaptive is {speeds['adaptive'] / speeds['mixing']:.0f} times as fast as mixing" in found


def test_checkpoints_beside_the_reference():
    rows = result("benchmarks/results/checkpoints.json")["results"]
    assert len(rows) == 24
    for at, row in enumerate(rows):
        coder = ("mixing", "adaptive", "rans")[at % 3]
        assert row["coder"] == coder
        found = cells("docs/checkpoints.md", row["model"], f"{row['max_error']:.3e}")
        assert found[0] == f"{row['reference_bytes']:,}"
        assert found[1 + 2 * (at % 3) :][:2] == [f"{row['file_bytes']:,}", f"{row['size_ratio']:.3f}"]


@pytest.mark.parametrize("network", ["ResNet-20", "ResNet-32"])
def test_what_data_is_worth(network):
    every = result(f"benchmarks/results/post_training_{network.lower().replace('-', '')}.json")["rows"]
    rows = [row for row in every if row["calibration"] is None]
    for row in every:
        if row["calibration"] is not None:
            found = f"`{row['method']}` has {percent(row['accuracy'])} for {network} at {row['setting']:g} bits"
            assert f"(`--calibration {row['calibration']}`) {found}" in text_of("docs/checkpoints.md")
    for method in dict.fromkeys(row["method"] for row in rows):
        found = [row for row in rows if row["method"] == method]
        spelled = {row["setting"]: f"{percent(row['accuracy'])}, {row['bytes']:,} B" for row in found}
        is_file = "yes" if all(row["is_file"] for row in found) else "no"
        expected = [*(spelled.get(setting, "") for setting in (1.5, 2, 2.5, 3, 4)), is_file]
        assert cells("docs/checkpoints.md", network, method) == expected
    accuracies = {row["method"]: percent(row["accuracy"]) for row in rows if row["setting"] == 2}
    assert {accuracies["metaq"], accuracies["metaq-no-data"]} < set(re.findall(r"[\d.]+ %", text_of("README.md")))


@pytest.mark.parametrize(
    ("network", "name", "measure", "form"),
    [
        ("EfficientNet-Lite0", "efficientnet", "accuracy", "{:.2%}"),
        ("MiniLM", "minilm", "cosine", "{:.4f}"),
        ("Gemma 3 270M", "gemma", "perplexity", "{:.2f}"),
    ],
)
def test_larger_networks(network, name, measure, form):
    found = result(f"benchmarks/results/post_training_{name}.json")
    (entry,) = found["networks"].values()
    text = " ".join(text_of("docs/checkpoints.md").split())
    floats = re.search(r"In float they have ([\d.]+) %, ([\d.]+) and ([\d.]+)\.", text).groups()
    before = floats[["accuracy", "cosine", "perplexity"].index(measure)]
    scale = 100 if measure == "accuracy" else 1
    assert float(before) == pytest.approx(scale * entry["float"][measure], abs=5e-3)
    for method in dict.fromkeys(row["method"] for row in found["rows"]):
        rows = [row for row in found["rows"] if row["method"] == method]
        spelled = {
            row["setting"]: f"{spelled_measure(form, row[measure])}, {row['bits_per_parameter']:.2f}" for row in rows
        }
        expected = [*(spelled.get(setting, "") for setting in (2, 2.5, 3, 4, 5)), "yes" if rows[0]["is_file"] else "no"]
        assert cells("docs/checkpoints.md", network, method) == expected
    headline = next(row[measure] for row in found["rows"] if row["is_file"] and row["setting"] == 3)
    assert spelled_measure(form, headline) in text_of("README.md")


def spelled_measure(form, value):
    """As documents have it; of a perplexity beyond all use its power of ten."""
    return f"{value:.1e}" if value >= 1e5 else form.format(value).replace("%", " %")


def test_layers_above_the_bound():
    means = result("benchmarks/results/post_training_bound.json")["networks"]["bound"]
    text = " ".join(text_of("docs/checkpoints.md").split())
    assert f"ours lies {means['metaq']['mean_gap_bits']:.3f} bits a weight above" in text
    assert f"ideal entropy {means['scalar feedback']['mean_gap_bits']:.3f} (" in text


def test_trellis():
    rows = result("benchmarks/results/trellis.json")["results"]
    gaps = {(row["way"], f"{row['step']:g}"): f"{row['gap_bits']:.3f}" for row in rows}
    for key in (("trellis, 8 states", "0.1"), ("trellis, 4 states", "0.1"), ("nearest", "0.18")):
        assert gaps[key] in text_of("docs/checkpoints.md")


@pytest.mark.parametrize("at", range(19))
def test_options_of_metaq(at):
    run = result("benchmarks/results/metaq_study.json")["runs"][at]
    figures = [f"{run['file_bytes']:,}", percent(run["validation_accuracy"]), percent(run["test_accuracy"])]
    assert cells("docs/methods/metaq.md", run["group"], run["variant"]) == figures


@pytest.mark.parametrize("at", [at for at in range(16) if at not in (0, 10, 13)])
def test_sizes_that_are_asked_for(at):
    rows = result("benchmarks/results/targets.json")["rows"]
    row, (base,) = (
        rows[at],
        [base for base in rows if base["method"] == "float" and base["experiment"] == rows[at]["experiment"]],
    )
    found = cells("docs/methods/metaq.md", row["experiment"], row["method"], f"{row['target_bytes']:,}")
    assert found == [f"{row['size_bytes']:,}", percent(row["accuracy"]), percent(base["accuracy"])]
    assert 0.98 <= row["size_over_target"] <= 1


@pytest.mark.parametrize("at", range(1, 13))
def test_differences(at):
    row = result("benchmarks/results/differences.json")["rows"][at]
    strength = f"{row['strength']:.0e}".replace("e-0", "e-")
    step = f"{row['step']:g}" if "step" in row else ""
    found = cells("docs/methods/difference.md", row["file"], strength, step)
    assert found == [f"{row['file_bytes']:,.0f}", f"{row['accuracy']:.3f}"]


@pytest.mark.parametrize("at", range(6))
def test_deltas(at):
    row = result("benchmarks/results/delta.json")["rows"][at]
    speeds = [row["gigabytes_per_second"][way] for way in ("encode, 2 threads", "decode, 2 threads", "delta", "apply")]
    found = cells("docs/methods/difference.md", row["dtype"], f"{round(100 * row['changed_share'], 2):g} %")
    peer = "zstd-3 of its planes"
    theirs = [
        f"{row['peers'][peer]:,}",
        *(f"{speed:.2g}" for speed in row["peers_gigabytes_per_second"][peer].values()),
    ]
    expected = [f"{row['file_bytes']:,}", f"{row['of_the_best_peer']:.2f}", *(f"{speed:.2g}" for speed in speeds)]
    assert found == [*expected, ", ".join(theirs)]


@pytest.mark.parametrize("at", range(14))
def test_devices(at):
    row = result("benchmarks/results/devices.json")["rows"][at]
    found = cells("docs/devices.md", row["coder"], row["file"])
    keys = ("file_bytes", "flash_bytes", "arena_bytes", "kept_bytes", "stack_bytes")
    assert found == [f"{row[key]:,}" for key in keys]


@pytest.mark.parametrize("at", range(9))
def test_networks_on_devices(at):
    row = result("benchmarks/results/devices.json")["networks"][at]
    found = cells("docs/devices.md", row["network"], row["coder"])
    keys = ("image_bytes", "flash_bytes", "ram_bytes", "value_bytes", "stack_bytes")
    assert found == [f"{row[key]:,}" for key in keys]


@pytest.mark.parametrize(
    "recipe", ["lenet5-caffe-hemp1", "lenet5-caffe-hemp2", "lenet5-caffe-hemp4", "lenet5-caffe-hemp-lobster"]
)
def test_hemp(recipe):
    check_run("docs/methods/hemp.md", recipe)


def test_lobster():
    check_run("docs/methods/lobster.md", "lenet5-caffe-lobster")


def check_run(page, recipe):
    run = result(f"results/{recipe}.json")
    held_out, test, lzma, mixing = cells(page, recipe)[:4]
    assert [held_out, test] == [percent(run["validation_accuracy"]), percent(run["test_after"]["accuracy"])]
    assert [lzma, mixing] == [f"{size_with(recipe, coder):,} B" for coder in ("lzma", "mixing")]


def size_with(recipe, coder):
    """Of the file of a recipe's network, were it written with this coder."""
    path = ROOT / "results" / f"{recipe}.mtq"
    return len(encode(read_model(Reader(path.read_bytes(), str(path))), coder))


@pytest.mark.parametrize(
    ("name", "heading", "end"),
    [("lc_curves", "## LeNet-300-100", "## LeNet-5\n"), ("lc_curves_lenet5", "## LeNet-5\n", "## Deviations")],
)
def test_lc(name, heading, end):
    table = text_of("docs/methods/lc.md").split(heading)[1].split(end)[0]
    spelled = {}
    for line in table.split("\n"):
        row = [cell.strip(" `") for cell in line.strip("|").split("|")]
        if len(row) == 5:
            spelled[row[0]] = row[1:]
    rows = [row for row in result(f"benchmarks/results/{name}.json")["rows"] if row["algorithm"] == "LC"]
    assert rows
    for row in rows:
        errors, file = spelled[row["scheme"]][2:]
        assert file == f"{row['file_bytes']:,} B"
        assert errors.split(" / ")[0] == f"{100 * (1 - row['test']['accuracy']):.2f}"


def test_deep_compression():
    page = text_of("docs/methods/deep_compression.md")
    for network in ("lenet300", "lenet5_caffe"):
        sizes = result(f"benchmarks/results/deep_compression_{network}.json")
        assert f"{sizes['published_weights_bytes'] / 1000:.1f} kB" in page
        assert f"**{sizes['file_bytes']:,} B**" in page


def test_every_committed_result_has_its_command():
    page = text_of("docs/reproduce.md") + text_of("docs/results.md")
    for path in [*(ROOT / "results").glob("*.json"), *(ROOT / "benchmarks" / "results").glob("*.json")]:
        assert f"](../{path.relative_to(ROOT)})" in page


@pytest.mark.parametrize(
    "page", [Path("README.md"), *(p.relative_to(ROOT) for p in sorted((ROOT / "docs").rglob("*.md")))], ids=str
)
def test_paths_that_a_page_names_exist(page):
    assert not [path for path in PATH.findall(text_of(page)) if not (ROOT / path).exists()]
