"""Pages of runs: texts of recipes and files are texts there too."""

import re
from importlib import resources

from metaq.report import html


def test_texts_are_no_markup(monkeypatch):
    template = {"page.html.j2": "{{ style }}{{ name }} {{ name|text }} {{ [name]|text }}", "page.css": "a > b {}"}
    monkeypatch.setattr(html, "_part", template.__getitem__)
    name = '<script>"x"</script>&\''
    escaped = "&lt;script&gt;&#34;x&#34;&lt;/script&gt;&amp;&#39;"
    assert html.html("page.html.j2", name=name) == f"a > b {{}}{escaped} {escaped} {escaped}"


def test_only_drawings_are_markup():
    found = set()
    for file in resources.files("metaq.report").iterdir():
        if file.name.endswith(".j2"):
            text = file.read_text(encoding="utf-8")
            assert "autoescape" not in text
            found |= set(re.findall(r"\{\{\s*(\S+?)\s*\|\s*safe", text))
    assert found == {"svg", "plot"}
