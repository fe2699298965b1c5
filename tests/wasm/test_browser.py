"""The npm package and the page that shows it off in headless Chromium."""

import gzip
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from .browser import chromium, needs_chromium, served
from .expected import GOLDEN, by_name, cases, tensors
from .package import BUILDS, ROOT, as_base64, built_package, needs_zig
from .strokes import strokes_of

DATA = os.environ.get("METAQ_DATA", "")
LARGEST_SCREENSHOT_BYTES = 150_000

pytestmark = [pytest.mark.slow, needs_zig, needs_chromium]


@pytest.fixture(scope="module")
def browser():
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def package_page(browser, tmp_path_factory):
    """A page that has the package as `metaq` and describe.mjs as `describe`."""
    folder = tmp_path_factory.mktemp("site")
    shutil.copytree(built_package(), folder / "package")
    shutil.copy(Path(__file__).parent / "describe.mjs", folder)
    shutil.copy(ROOT / "results" / "lenet5-mnist.mtq", folder)
    script = "import * as metaq from './package/metaq.js'; import * as tools from './describe.mjs';"
    script += "Object.assign(globalThis, { metaq, ...tools, isReady: true });"
    (folder / "index.html").write_text(f"<!doctype html><script type=module>{script}</script>")
    with served(folder) as address:
        page = browser.new_page()
        page.goto(address)
        page.wait_for_function("globalThis.isReady")
        yield page
        page.close()


@pytest.mark.parametrize("build", BUILDS)
def test_reads_what_numpy_reads_and_refuses_what_cpp_refuses(package_page, build):
    expected = cases()
    modules = [f"/package/dist/metaq.{name}.wasm" for name in BUILDS[build]]
    package_page.evaluate("(modules) => metaq.init(...modules)", modules)
    script = "(files) => Promise.all(files.map((file) => describe(metaq, file)))"
    found = package_page.evaluate(script, [as_base64(data) for data, _ in expected])
    assert [by_name(described) for described in found] == [by_name(described) for _, described in expected]


def test_fetch_and_worker(package_page):
    """A relative address, streamed and on another thread; the build is chosen by what the engine can do."""
    data = (ROOT / "results" / "lenet5-mnist.mtq").read_bytes()
    package_page.evaluate("() => metaq.init()")
    assert package_page.evaluate("() => metaq.hasSimd()")
    for how in ("load", "loadInWorker"):
        script = f"async () => [...(await metaq.{how}('lenet5-mnist.mtq')).values()].map(described)"
        assert package_page.evaluate(script) == tensors(data)
    script = "async () => described(await (await metaq.safeOpen('lenet5-mnist.mtq')).get('fc3.bias'))"
    assert package_page.evaluate(script) == tensors(data)[-1]  # of a server without ranges
    script = (
        "async () => { for await (const tensor of metaq.stream(await fetch('lenet5-mnist.mtq'))) return tensor.name; }"
    )
    assert package_page.evaluate(script) == "conv1.weight"
    script = "(file) => metaq.loadInWorker(Uint8Array.from(atob(file), (c) => c.charCodeAt(0))).catch((e) => e.status)"
    assert package_page.evaluate(script, as_base64(data[:-1])) == "truncated"
    script = "() => metaq.load('nothing.mtq').catch((error) => error.message)"
    assert package_page.evaluate(script).endswith("nothing.mtq: expected a .mtq file, found HTTP status 404")


@pytest.fixture(scope="module")
def example(tmp_path_factory):
    """The page in examples/browser as one file."""
    path = tmp_path_factory.mktemp("page") / "page.html"
    subprocess.run([sys.executable, ROOT / "examples" / "browser" / "build.py", path], check=True)
    return path


def opened(browser, example, **options):
    """The page in a window of its own that has no network, and what it asks for or complains of."""
    page = browser.new_page(**options)
    complaints = []
    page.on("request", lambda request: complaints.append(request.url) if request.url.startswith("http") else None)
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.context.set_offline(True)
    page.goto(example.as_uri())
    page.wait_for_selector("body[data-is-ready]")
    return page, complaints


@pytest.mark.skipif(importlib.util.find_spec("segno") is None, reason="no segno")
class TestExample:
    @pytest.mark.skipif(not (Path(DATA) / "mnist").is_dir() or not DATA, reason="no MNIST in METAQ_DATA")
    def test_reads_digits_that_are_drawn_as_those_of_mnist(self, browser, example):
        page, complaints = opened(browser, example)
        found = []
        for image in first_of_each_digit():
            page.click("#clear")
            draw(page, strokes_of(image))
            wait_for_frame(page)
            found.append(page.text_content("#answer"))
        page.close()
        print(f"\ndrawn 0 to 9, read as {' '.join(found)}")
        assert sum(answer == str(digit) for digit, answer in enumerate(found)) >= 9
        assert not complaints

    @pytest.mark.parametrize("scheme", ["light", "dark"])
    @pytest.mark.parametrize("width", [360, 1100])
    def test_fits_and_shows_a_digit_in_both_schemes(self, browser, example, scheme, width, tmp_path):
        page, complaints = opened(browser, example, color_scheme=scheme, viewport={"width": width, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") == width
        assert page.text_content("#answer") == "3"
        assert page.text_content("#used") == "3,746"
        wait_for_frame(page)
        folder = Path(os.environ.get("METAQ_SCREENSHOTS", tmp_path))
        path = folder / f"browser-{scheme}-{'phone' if width == 360 else 'wide'}.png"
        page.screenshot(path=path)
        assert path.stat().st_size < LARGEST_SCREENSHOT_BYTES
        page.close()
        assert not complaints

    def test_looks_inside_of_other_files(self, browser, example, tmp_path):
        page, complaints = opened(browser, example)
        golden = next(path for path in GOLDEN if path.stem == "every-dtype")
        page.set_input_files("#choose", golden)
        page.wait_for_function("document.querySelector('#summary').textContent.startsWith('every-dtype')")
        names = page.eval_on_selector_all("#tensors > li > b", "(found) => found.map((name) => name.textContent)")
        assert names == [tensor["name"] for tensor in tensors(golden.read_bytes())]
        (tmp_path / "cut.mtq").write_bytes(golden.read_bytes()[:-3])
        page.set_input_files("#choose", tmp_path / "cut.mtq")
        page.wait_for_function("document.querySelector('#summary').textContent.startsWith('cut')")
        assert page.text_content("#summary") == "cut.mtq: expected more bytes, found the end of the file."
        page.close()
        assert not complaints


def wait_for_frame(page):
    """Until what was drawn is shown."""
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")


def first_of_each_digit():
    folder = Path(DATA) / "mnist"
    images = np.frombuffer(gzip.decompress((folder / "t10k-images-idx3-ubyte.gz").read_bytes()), np.uint8, offset=16)
    labels = np.frombuffer(gzip.decompress((folder / "t10k-labels-idx1-ubyte.gz").read_bytes()), np.uint8, offset=8)
    return [images.reshape(-1, 28, 28)[np.flatnonzero(labels == digit)[0]] for digit in range(10)]


def draw(page, strokes):
    box = page.locator("#pad").bounding_box()
    for stroke in strokes:
        points = [
            (box["x"] + (x + 0.5) / 28 * box["width"], box["y"] + (y + 0.5) / 28 * box["height"]) for y, x in stroke
        ]
        page.mouse.move(*points[0])
        page.mouse.down()
        for point in points[1:]:
            page.mouse.move(*point)
        page.mouse.up()
