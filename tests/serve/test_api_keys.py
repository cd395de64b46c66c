"""Files of API keys: what is read, what is refused, and how they change while the server runs."""

import hashlib
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.web.api_keys import RIGHTS, ApiKeys, BadKeys, new_key, read_keys

HASH = hashlib.sha256(b"open sesame").hexdigest()


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def written(folder: Path, text: str) -> Path:
    """The file as a careful operator replaces it: whole, in one step."""
    file = folder / "keys.txt"
    fresh = folder / "fresh"
    fresh.write_text(text)
    os.replace(fresh, file)
    return file


def test_lines_comments_and_scopes(tmp_path: Path) -> None:
    other = hashlib.sha256(b"other").hexdigest()
    file = written(tmp_path, f"# keys\n\nweb:{HASH}  # the shop\n ops:{other}:metrics,infer\n")
    web, ops = read_keys(file)
    assert (web.name, web.rights, ops.rights) == ("web", {"infer"}, {"metrics", "infer"})
    assert web.may("infer")
    assert not web.may("metrics")
    found = ApiKeys(file).find("open sesame")
    assert found == web
    for wrong in ("", "open sesame ", "Open sesame", HASH, "x" * 10_000, "\udce9"):
        assert ApiKeys(file).find(wrong) is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "has 0 keys"),
        ("# none yet\n", "has 0 keys"),
        ("s3cret-that-was-pasted", "line 1 is not NAME:SHA256"),
        (f"web:{HASH[:-1]}", "line 1 is not NAME:SHA256"),
        (f"ok:{HASH}\nweb shop:{HASH}", "line 2 is not NAME:SHA256"),
        (f"web:{HASH}:root", "web, has a scope that is none of infer, metrics, admin"),
        (f"web:{HASH}:", "no error"),
        (f"a:{HASH}\nb:{HASH}", "has one key twice"),
        ("x" * (300 << 10), "is larger than"),
    ],
)
def test_files_that_cannot_be_used(tmp_path: Path, text: str, said: str) -> None:
    file = written(tmp_path, text)
    if said == "no error":
        assert read_keys(file)[0].rights == {"infer"}
        return
    with pytest.raises(BadKeys, match=said) as caught:
        read_keys(file)
    assert "s3cret" not in str(caught.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(BadKeys, match="cannot be read"):
        read_keys(tmp_path / "nowhere")
    (tmp_path / "keys.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(BadKeys, match="cannot be read"):
        read_keys(tmp_path / "keys.txt")


@given(st.text(), st.lists(st.sampled_from([*RIGHTS, "root", ""]), min_size=1, max_size=4))
def test_new_keys_are_read_back_or_refused(name: str, rights: list[str]) -> None:
    try:
        key, line = new_key(name, rights)
    except BadKeys:
        assert not name.isascii() or not set(rights) <= set(RIGHTS) or not name or not name.isalnum() or len(name) > 64
        return
    assert len(key) > 40
    name_read, digest, scopes = line.split(":")
    assert (name_read, digest) == (name, hashlib.sha256(key.encode()).hexdigest())
    assert set(scopes.split(",")) == set(rights)


def test_a_changed_file_is_read_again_and_a_broken_one_is_not(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    old, old_line = new_key("web")
    new, new_line = new_key("web")
    file = written(tmp_path, old_line)
    clock = Clock()
    keys = ApiKeys(file, clock)

    def known() -> list[bool]:
        clock.now += 1.5
        return [keys.find(key) is not None for key in (old, new)]

    assert known() == [True, False]
    written(tmp_path, f"{old_line}\n{new_line}\n")
    assert known() == [True, True]
    written(tmp_path, new_line)
    assert known() == [False, True]
    written(tmp_path, "broken")
    assert known() == [False, True]
    file.unlink()
    assert known() == [False, True]
    written(tmp_path, old_line)
    assert known() == [True, False]
    errors = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert len(errors) == 2  # said once each, not at every request
    assert "stay as they were" in errors[0]


def test_the_file_is_looked_at_once_a_second(tmp_path: Path) -> None:
    old, old_line = new_key("web")
    clock = Clock()
    keys = ApiKeys(written(tmp_path, old_line), clock)
    written(tmp_path, new_key("web")[1])
    clock.now = 0.9
    assert keys.find(old) is not None
    clock.now = 1.1
    assert keys.find(old) is None
