"""Where data comes from, and what is said when it does not come."""

import gzip
import hashlib
import io
import tarfile
import zipfile

import pytest

from metaq.errors import DataError, InputError
from metaq.experiments.data import by_name, files
from metaq.experiments.data.files import PublishedFile, fetch

CONTENT = b"published content"
SHA256 = hashlib.sha256(CONTENT).hexdigest()
MIRRORS = ("http://127.0.0.1:9/one/", "http://127.0.0.1:9/two/")
FILE = PublishedFile("file.gz", SHA256, len(CONTENT), MIRRORS, is_gzip=True)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.setenv("METAQ_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def put(folder, content):
    path = folder / "set" / "file.gz"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    return path


def test_metaq_data_comes_first_then_the_cache(tmp_path):
    put(tmp_path / "cache" / "metaq", gzip.compress(CONTENT))
    assert fetch("set", FILE) == CONTENT
    put(tmp_path / "data", b"broken")
    with pytest.raises(DataError, match=r"data/set/file\.gz: expected a gzip file"):
        fetch("set", FILE)


def test_another_content_is_refused_whatever_its_packing(tmp_path):
    path = put(tmp_path / "data", gzip.compress(CONTENT, compresslevel=1, mtime=1))
    assert fetch("set", FILE) == CONTENT
    path.write_bytes(gzip.compress(b"something else"))
    with pytest.raises(DataError, match="expected content of SHA-256"):
        fetch("set", FILE)


def test_downloads_go_to_the_cache_and_are_checked(tmp_path, monkeypatch):
    served = {FILE.mirrors[0] + "file.gz": gzip.compress(b"wrong"), FILE.mirrors[1] + "file.gz": gzip.compress(CONTENT)}
    monkeypatch.setattr(files, "_download", lambda url, most_bytes: served[url])
    assert fetch("set", FILE) == CONTENT
    monkeypatch.setattr(files, "_download", None)
    assert fetch("set", FILE) == CONTENT
    assert (tmp_path / "cache/metaq/set/file.gz").exists()


def test_when_nothing_works_one_line_says_where_to_put_the_file(tmp_path):
    with pytest.raises(DataError) as caught:
        fetch("set", FILE)
    message = str(caught.value)
    assert "\n" not in message
    assert str(tmp_path / "data/set/file.gz") in message
    assert "METAQ_DATA" in message


def test_unknown_sets_are_named():
    with pytest.raises(InputError, match="did you mean 'mnist'"):
        by_name("minst")


def test_no_more_is_unpacked_than_was_published(tmp_path, monkeypatch):
    """A file of a few kilobytes may unpack to any size."""
    put(tmp_path / "data", gzip.compress(bytes(1 << 19)))
    asked = []
    sha256 = files.hashlib.sha256
    monkeypatch.setattr(files.hashlib, "sha256", lambda content: asked.append(len(content)) or sha256(content))
    with pytest.raises(DataError, match="expected content of SHA-256"):
        fetch("set", FILE)
    assert asked == [len(CONTENT) + 1]


def test_no_more_is_read_than_was_published(tmp_path, monkeypatch):
    put(tmp_path / "data", bytes(1 << 20))
    with pytest.raises(DataError, match=r"file.gz: expected at most 1041 bytes, found 1048576; remove it"):
        fetch("set", FILE)
    (tmp_path / "data" / "set" / "file.gz").unlink()

    class Endless(io.RawIOBase):
        length = None

        def read(self, size=-1):
            assert size > 0
            return bytes(size)

    monkeypatch.setattr(files.urllib.request, "urlopen", lambda *_, **__: Endless())
    with pytest.raises(DataError, match=r"http://127.0.0.1:9/one/file.gz: expected at most 1041 bytes, found more"):
        fetch("set", FILE)


def test_archives_are_not_opened_before_their_checksum_is_right(tmp_path, monkeypatch):
    for name, archives, opened in (
        ("cifar10-jpeg", ("train.zip", "test.zip"), (zipfile, "ZipFile")),
        ("cifar10", ("cifar-10-binary.tar.gz",), (tarfile, "open")),
    ):
        (tmp_path / "data" / name).mkdir(parents=True)
        for archive in archives:
            (tmp_path / "data" / name / archive).write_bytes(b"another")
        monkeypatch.setattr(*opened, None)
        with pytest.raises(DataError, match=r"expected content of SHA-256 .* remove it to have it fetched again"):
            by_name(name)(5)
