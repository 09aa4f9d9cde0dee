"""Reading files: what DeepSpeed's reader accepts is accepted, and nothing in a file can hurt."""

from __future__ import annotations

from pathlib import Path

import pytest

from lightning_lrsched import RangeTestResult
from lightning_lrsched.__main__ import main
from lightning_lrsched.config.files import MAX_BYTES, dump_mapping, read_mapping


def read(folder: Path, name: str, text: str | bytes) -> dict:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_mapping(path)


def test_json_may_have_comments_and_trailing_commas(tmp_path):
    text = '// one\n{\n  # two\n  "a": 1e-5, /* three */\n  "b": [1, 2,],\n}\n'
    assert read(tmp_path, "x.json", text) == {"a": 1e-5, "b": [1, 2]}


def test_windows_line_ends_and_a_byte_order_mark_do_not_matter(tmp_path):
    assert read(tmp_path, "x.json", b'\xef\xbb\xbf{\r\n"a": 1\r\n}\r\n') == {"a": 1}
    assert read(tmp_path, "x.yaml", b"\xef\xbb\xbfa: 1\r\nb: 2\r\n") == {"a": 1, "b": 2}


def test_yaml_may_have_anchors(tmp_path):
    assert read(tmp_path, "x.yml", "a: &x {lr: 1}\nb: {<<: *x, wd: 2}\n")["b"] == {"lr": 1, "wd": 2}


ALIASES = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)
)
MERGES = "a0: &a0 {x: 1}\n" + "".join(f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}\n" for n in range(1, 12))


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("x.json", "[" * 200_000, "nested too deeply"),
        ("x.json", '{"a":' * 40_000, "nested too deeply"),
        ("x.json", '{"a": ' + "[" * 80 + "]" * 80 + "}", "nested too deeply"),
        ("x.yaml", "[" * 200_000, "nested too deeply"),
        ("x.yaml", "- " * 100_000, "nested too deeply"),
        ("x.yaml", "a: &a [*a]", "nested too deeply"),
        ("x.yaml", ALIASES, "aliases expand to more than"),
        ("x.yaml", MERGES, "aliases expand to more than"),
        ("x.yaml", "!!python/object/apply:os.system ['exit 1']", "not valid YAML"),
        ("x.yaml", "a: !!python/name:os.system", "not valid YAML"),
        ("x.yaml", "a: [1, 2", "not valid YAML"),
        ("x.yaml", "a: 1\nb: 2\na: 3\n", "'a' appears twice"),
        ("x.json", '{"a": {"b": 1, "b": 2}}', "'b' appears twice"),
        ("x.json", '{"a": 1', "not valid JSON"),
        ("x.json", '{"a": ' + "1" * 200_000 + "}", "digits"),
        ("x.json", b"\xff\xfe{", "can't decode"),
        ("x.json", "[1, 2]", "must hold a mapping"),
        ("x.yaml", "", "must hold a mapping"),
        ("x.yaml", "just words", "must hold a mapping"),
    ],
)
@pytest.mark.timeout(100)  # seconds even on a busy machine; what a few lines of aliases expand to would take years
def test_a_bad_file_is_refused_with_its_name(tmp_path, name, text, complaint):
    with pytest.raises(ValueError, match=complaint) as error:
        read(tmp_path, name, text)
    assert str(error.value).startswith(str(tmp_path / name))
    assert "\n" not in str(error.value)


def test_a_huge_file_is_refused_without_reading_it(tmp_path):
    path = tmp_path / "huge.json"
    with path.open("wb") as file:
        file.truncate(100 * 1024 * 1024)
    with pytest.raises(ValueError, match=f"larger than {MAX_BYTES} bytes"):
        read_mapping(path)


@pytest.mark.parametrize("path", ["missing.json", "."])
def test_what_is_no_file_is_refused(path):
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_mapping(path)


@pytest.mark.parametrize("form", ["json", "yaml"])
def test_what_is_written_reads_back(tmp_path, form):
    content = {"scheduler": {"type": "OneCycle", "params": {"cycle_min_lr": [1e-8, 0.1], "cycle_momentum": True}}}
    assert read(tmp_path, f"x.{form}", dump_mapping(content, form)) == content


def test_a_full_disk_leaves_the_record_that_was_there(tmp_path, request):
    path, result = tmp_path / "x.json", RangeTestResult([0], [0.1], [1.0], [1.0], "diverged", "exponential")
    result.save(path)
    before = path.read_bytes()
    request.getfixturevalue("full_disk")
    with pytest.raises(OSError, match="No space left"):
        result.save(path, overwrite=True)
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [before]


@pytest.mark.parametrize("number", ["1e999", "-1e999"])
def test_a_number_that_is_too_large_is_an_error_of_that_file_alone(tmp_path, number, capsys):
    (tmp_path / "a.json").write_text(f'{{"train_batch_size": {number}, "scheduler": {{"type": "WarmupLR"}}}}')
    (tmp_path / "b.json").write_text('{"scheduler": {"type": "WarmupLR"}}')
    assert main(["check", str(tmp_path)]) == 1
    first, second = capsys.readouterr().out.splitlines()
    assert "a.json: not valid JSON: a number is too large" in first
    assert "b.json: ok" in second
