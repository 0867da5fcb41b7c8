"""Names: one for every text, that every file system takes and none confuses with another; and whole folders."""

import os
import re
import shutil
import unicodedata
from functools import partial

import pytest
from filelock import FileLock
from hypothesis import example, given, settings
from hypothesis import strategies as st

from skipdit.files import (
    RESERVED_CHARACTERS,
    RESERVED_NAMES,
    distinct_names,
    new_folder,
    place_aside,
    safe_name,
    whole_folder,
    write_text,
)

ANY = st.characters()  # lone surrogates too, as a command line may hold them
TRICKY = "aA .-_/\\:0bé\u0301\u0131ß日\n"
TEXTS = st.text(ANY, max_size=80) | st.text(TRICKY, max_size=80) | st.text(ANY, min_size=190)
ALTERED = st.sampled_from(
    [
        str.upper, str.lower, str.casefold, str.swapcase, str.strip, safe_name,
        lambda text: text + ".", lambda text: " " + text, lambda text: text[:-1], lambda text: text.replace("/", "_"),
        *[partial(unicodedata.normalize, form) for form in ("NFC", "NFD", "NFKC", "NFKD")],
    ]
)  # fmt: skip
often = settings(max_examples=400)


def as_file_systems_compare(name):
    """Ignoring case and the form of accents, as Windows and macOS may."""
    return {unicodedata.normalize("NFD", fold(name)) for fold in (str.lower, str.upper, str.casefold)}


@pytest.mark.parametrize(
    "text",
    [
        "a dog runs",
        "A Dog, running; 2.5 times (FAST)",
        "Über den Wolken",
        "狗在跑",
        "-",
        "x" * 200,
        "Straße",
        "Console",
    ],
)
def test_text_that_is_a_name_is_its_own(text):
    assert safe_name(text) == text


@pytest.mark.parametrize(
    ("text", "likeness"),
    [
        ("A dog runs.", "A dog runs"), ("a/b\\c:d", "a_b_c_d"), ("../../etc/passwd", "_.._etc_passwd"),
        ("..", "untitled"), ("", "untitled"), (" . ", "untitled"), ("what?\n", "what__"), ("cafe\u0301", "café"),
        ("con", "_con"), ("Con.tar.gz", "_Con.tar.gz"), ("nul .x", "_nul .x"), ("com¹", "_com¹"),
        ("\ud800", "_"), ("a\u2028b", "a_b"), ("\u202egpj.exe", "_gpj.exe"),
        ("狗" * 67, "狗" * 62), ("x" * 201, "x" * 187),
    ],
)  # fmt: skip
def test_other_text_has_a_likeness_and_a_hash(text, likeness):
    assert re.fullmatch(f"{re.escape(likeness)}-[0-9a-f]{{12}}", safe_name(text))


HASH_LIKE = ("x-0123456789ab", "x-0123456789AB", "x-0123456789\ufb00")  # the last ends in one character, a ligature ff


@often
@given(TEXTS, TEXTS)
@example("\ud800", "\ud801")
def test_different_texts_have_different_names(first, second):
    if first != second:
        assert safe_name(first) != safe_name(second)


@often
@given(TEXTS, ALTERED)
@example("a dog runs!", safe_name)
@example("A", str.lower)
@example("i", lambda text: "\u0131")
@example("ss", lambda text: "ß")
@example("k", lambda text: "\u212a")
def test_distinct_names_differ_also_where_case_does_not_count(text, alter):
    if alter(text) != text:
        first, second = distinct_names([text, alter(text)])
        assert not as_file_systems_compare(first) & as_file_systems_compare(second)


@often
@given(st.lists(st.text(TRICKY, max_size=4), max_size=12))
@example(["a", "A", "a", safe_name("?"), "?"])
def test_so_do_the_names_of_a_list(texts):
    names = distinct_names(texts)
    compared = {text: as_file_systems_compare(name) for text, name in zip(texts, names, strict=True)}
    assert not [(a, b) for a in compared for b in compared if a != b and compared[a] & compared[b]]
    assert all(names[texts.index(text)] == name for text, name in zip(texts, names, strict=True)), "equal texts"


@often
@given(st.lists(st.text(TRICKY, max_size=4), max_size=12), st.integers(0, 12))
def test_more_texts_at_the_end_change_no_name_before_them(texts, first):
    assert distinct_names(texts)[:first] == distinct_names(texts[:first])


@given(st.lists(TEXTS, max_size=6))
def test_a_name_is_the_safe_one_but_for_the_later_of_a_pair(texts):
    folded = [frozenset(as_file_systems_compare(text)) for text in texts]
    for index, (text, name) in enumerate(zip(texts, distinct_names(texts), strict=True)):
        assert name == safe_name(text) or any(folded[index] & earlier for earlier in folded[:index])


def test_of_two_texts_that_differ_in_case_the_later_has_a_hash():
    first, second, again = distinct_names(["a Dog", "A dog", "a Dog"])
    assert first == again == "a Dog"
    assert re.fullmatch("A dog-[0-9a-f]{12}", second)


@pytest.mark.parametrize("text", HASH_LIKE)
def test_text_that_looks_like_a_name_with_a_hash_gets_one(text):
    assert safe_name(text) != text


@often
@given(TEXTS, st.integers(32, 255))
@example("con", 32)
@example("con" + 300 * " " + ".x", 32)
def test_every_file_system_takes_the_name(text, at_most):
    name = safe_name(text, at_most=at_most)
    assert 0 < len(name.encode()) <= at_most
    assert not set(name) & {*RESERVED_CHARACTERS, *map(chr, range(32)), "\x7f"}
    assert name == name.strip().strip(".")
    assert name.partition(".")[0].rstrip().lower() not in RESERVED_NAMES
    assert unicodedata.is_normalized("NFC", name)


@given(TEXTS)
@example("..")
@example("../up")
def test_the_name_is_of_a_file_in_the_folder(tmp_path_factory, text):
    folder = tmp_path_factory.getbasetemp().resolve()
    path = folder / f"{safe_name(text)}.mp4"
    path.write_bytes(b"")
    assert path.resolve().parent == folder
    path.unlink()


@often
@given(TEXTS, st.integers(32, 255))
def test_a_name_is_the_same_whenever_it_is_asked_for(text, at_most):
    name = safe_name(text, at_most=at_most)
    assert safe_name(text, at_most=at_most) == name
    assert name != text or safe_name(name, at_most=at_most) == name


def test_a_name_too_short_for_a_hash_is_refused():
    with pytest.raises(ValueError, match="at_most is 31; it must be at least 32 bytes"):
        safe_name("a", at_most=31)


def test_text_is_written_in_utf_8(tmp_path):
    write_text(tmp_path / "text", "狗\r\n")
    assert (tmp_path / "text").read_bytes() == "狗\r\n".encode()


@pytest.fixture
def held(tmp_path):
    """A folder that holds `text`."""
    (tmp_path / "held").mkdir()
    (tmp_path / "held" / "text").write_text("old")
    return tmp_path / "held"


def alone(folder):
    """What the folder holds, which has none beside it."""
    assert os.listdir(folder.parent) == [folder.name]
    return {path.name: path.read_text() for path in folder.iterdir()}


def test_a_whole_folder_replaces_the_old_one(held):
    with whole_folder(held) as folder:
        (folder / "other").write_text("new")
        assert (held / "text").read_text() == "old"
    assert alone(held) == {"other": "new"}


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_what_fails_inside_leaves_the_old_folder(held, error):
    with pytest.raises((OSError, KeyboardInterrupt)), whole_folder(held):
        raise error
    assert alone(held) == {"text": "old"}


def test_a_rename_that_fails_leaves_the_old_folder(held):
    with pytest.raises(OSError, match="held could not be written"), whole_folder(held) as folder:
        shutil.rmtree(folder)  # so that there is nothing to rename
    assert alone(held) == {"text": "old"}


def test_a_kill_between_the_renames_loses_nothing(held):
    held.rename(held.with_name(".replaced-held"))
    held.with_name(".partial-held").mkdir()
    with pytest.raises(OSError, match="held could not be written"), whole_folder(held):
        raise RuntimeError
    assert alone(held) == {"text": "old"}


def test_a_kill_after_the_renames_leaves_nothing_behind(held):
    held.with_name(".replaced-held").mkdir()
    with whole_folder(held) as folder:
        (folder / "other").write_text("new")
    assert alone(held) == {"other": "new"}


def test_a_new_folder_replaces_nothing(held):
    with pytest.raises(OSError, match="held could not be written"), new_folder(held) as folder:
        (folder / "other").write_text("new")
    assert alone(held) == {"text": "old"}


def made_by_another(path):
    with new_folder(path) as folder:
        (folder / "text").write_text("first")


def test_what_a_killed_process_left_aside_goes_and_what_a_living_one_writes_stays(tmp_path):
    made, left, held = tmp_path / "made", tmp_path / ".made.00000000", tmp_path / ".made.11111111"
    for aside in (left, held):
        aside.mkdir()
        aside.with_name(f"{aside.name}.lock").touch()
    with FileLock(held.with_name(f"{held.name}.lock")), new_folder(made):
        assert held.exists()
        assert not left.exists()
    with new_folder(tmp_path / "other"):  # of another name
        assert held.exists()


def test_a_link_is_followed(tmp_path):
    for name in ("folder", "file"):
        (tmp_path / f"{name}-link").symlink_to(tmp_path / name)
    for _ in range(2):
        with whole_folder(tmp_path / "folder-link") as folder:
            (folder / "text").write_text("new")
        write_text(tmp_path / "file-link", "new")
    assert (tmp_path / "folder" / "text").read_text() == (tmp_path / "file").read_text() == "new"
    assert (tmp_path / "folder-link").is_symlink()
    assert (tmp_path / "file-link").is_symlink()


def test_of_two_new_folders_the_first_to_end_stays(tmp_path):
    with pytest.raises(OSError, match="made could not be written"), new_folder(tmp_path / "made"):
        made_by_another(tmp_path / "made")
    assert alone(tmp_path / "made") == {"text": "first"}


def test_a_file_is_not_replaced_by_a_folder(tmp_path):
    (tmp_path / "held").write_text("old")
    with pytest.raises(OSError, match="held could not be written"), whole_folder(tmp_path / "held"):
        pass
    assert (os.listdir(tmp_path), (tmp_path / "held").read_text()) == (["held"], "old")


def test_names_aside_are_never_those_of_somebody_else(tmp_path):
    """A file beside the target that only looks alike, with a lock of its own."""
    others = [tmp_path / name for name in (".env.local", ".env.local.lock", ".env.12345678.lock.txt")]
    for other in others:
        other.write_text("mine")
    with place_aside(tmp_path / "env") as aside:
        aside.write_text("ours")
    assert sorted(tmp_path.iterdir()) == sorted(others)
