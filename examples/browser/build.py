"""Builds the page, one file that needs nothing else: `python examples/browser/build.py PAGE.html`.

It takes `pip install segno ziglang`. The decoder is that of wasm/, without vectors, so that every engine takes it.
"""

import base64
import gzip
import re
import runpy
import sys
import tempfile
from pathlib import Path

import segno

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
MODEL = ROOT / "results" / "lenet5-mnist.mtq"
NAMES = ["init", "load", "safeOpen"]  # of the package, that the page calls


def as_script(path: Path) -> str:
    """A module's text without what it imports and exports: all modules become one."""
    text = re.sub(r"^import .*\n", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return re.sub(r"^export ", "", text, flags=re.MULTILINE)


def library() -> str:
    """The npm package as one object, whose own names nobody else sees."""
    text = as_script(ROOT / "wasm" / "sources.js") + as_script(ROOT / "wasm" / "metaq.js")
    return f"const metaq = (() => {{\n{text}\nreturn {{ {', '.join(NAMES)} }};\n}})();\n"


def assets(decoder: bytes) -> str:
    """The decoder, compressed, and the model as constants of the script."""
    packed, model = (base64.b64encode(data).decode() for data in (gzip.compress(decoder, mtime=0), MODEL.read_bytes()))
    return f"""
const fromBase64 = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
const modelBytes = fromBase64('{model}');
const decoderBytes = () => new Response(new Blob([fromBase64('{packed}')]).stream()
  .pipeThrough(new DecompressionStream('gzip'))).arrayBuffer();
"""


def page(decoder: bytes) -> str:
    """The page's HTML, with everything in it."""
    modules = ["lenet5", "drawing", "pictures", "inside", "page"]
    script = library() + assets(decoder) + "".join(as_script(HERE / f"{name}.js") for name in modules)
    code = segno.make(MODEL.read_bytes(), mode="byte", error="l", micro=False)
    return (
        (HERE / "index.html")
        .read_text(encoding="utf-8")
        .replace("/* style.css */", (HERE / "style.css").read_text(encoding="utf-8"))
        .replace("<!-- qr -->", code.svg_inline(border=0, omitsize=True, dark="#1d1c1a"))
        .replace("/* page.js */", script)
    )


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        runpy.run_path(str(ROOT / "wasm" / "build.py"))["build"](Path(folder))
        decoder = (Path(folder) / "metaq.plain.wasm").read_bytes()
    Path(sys.argv[1]).write_text(page(decoder), encoding="utf-8")
