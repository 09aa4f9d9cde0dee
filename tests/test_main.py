"""The console command: what it needs, its exit status, its subcommands check and convert, its complaints."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from lightning_lrsched import SchedulerConfig
from lightning_lrsched.__main__ import main
from tests.kit.schedules import AUTO, ONE_CYCLE

ROOT = Path(__file__).parents[1]


def test_the_command_needs_neither_lightning_nor_the_compiler(write):
    # They take seconds to import.
    script = (
        "import sys; from lightning_lrsched.__main__ import main; status = main(sys.argv[1:]);"
        " print([n for n in ('lightning', 'pytorch_lightning', 'torch._dynamo') if n in sys.modules]); sys.exit(status)"
    )
    command = [sys.executable, "-c", script, "preview", write(ONE_CYCLE)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "[]"


def test_python_m_runs_it(write):
    command = [sys.executable, "-m", "lightning_lrsched", "check", write(AUTO), write({"a": 1}, "bad.json")]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    good, bad = result.stdout.splitlines()
    assert good.endswith("config.json: ok: scheduler WarmupDecayLR (total_num_steps, warmup_num_steps, warmup_max_lr:"
                         " when training starts), optimizer AdamW")  # fmt: skip
    assert bad.endswith("bad.json: scheduler is missing; the configuration has the keys 'a'")
    assert result.stderr == ""


@pytest.mark.parametrize("to", ["json", "yaml"])
def test_convert_changes_the_format_and_resolves_what_is_known(write, tmp_path, to):
    output = tmp_path / f"out.{to}"
    assert main(["convert", write(AUTO), str(output), "--steps", "50"]) == 0
    content = yaml.safe_load(output.read_text()) if to == "yaml" else json.loads(output.read_text())
    assert content["train_batch_size"] == "auto"
    assert content["scheduler"]["params"] == {
        "total_num_steps": 50, "warmup_num_steps": "1ep", "warmup_max_lr": 2e-4,
    }  # fmt: skip
    assert SchedulerConfig.load(output) == SchedulerConfig.from_dict(content)


def test_convert_there_and_back_changes_nothing(write, tmp_path, capsys):
    for content in (ONE_CYCLE, {"deepspeed": {"scheduler": ONE_CYCLE, "x": [1]}, "y": None}):
        there = tmp_path / "there.yaml"
        assert main(["convert", write(content), str(there)]) == 0
        assert main(["convert", str(there)]) == 0
        assert json.loads(capsys.readouterr().out) == content


def test_check_looks_into_folders_and_tells_warnings(write, tmp_path, capsys):
    section = {"type": "WarmupLR", "params": {"warmup_num_steps": 10}}
    write({"optimizer": {"type": "SGD", "params": {"lr": 0.1}}, "scheduler": section}, "a.json")
    write("not: [valid", "b.yaml")
    write("something else", "c.txt")
    assert main(["check", str(tmp_path)]) == 1
    first, second = capsys.readouterr().out.splitlines()
    assert "a.json: ok: scheduler WarmupLR, optimizer SGD; warning: WarmupLR: warmup_max_lr was not given" in first
    assert "b.yaml: not valid YAML" in second


def test_a_preview_says_what_is_a_placeholder(write, tmp_path, capsys):
    params = {"cycle_min_lr": "auto", "cycle_max_lr": "lr_range_test", "cycle_first_step_size": 0.3}
    path = str(write({"type": "OneCycle", "params": params}))
    told = "(placeholder for cycle_max_lr, which a range test finds when training starts)"
    assert main(["preview", path, "--steps", "100"]) == 0
    assert capsys.readouterr().out.splitlines()[1] == told
    assert main(["preview", path, "--steps", "100", "--csv"]) == 0
    shown = capsys.readouterr()
    assert shown.out.startswith("step,lr")
    assert told in shown.err
    known = str(write({"type": "OneCycle", "params": {**params, "cycle_max_lr": 0.1}}, "known.json"))
    assert main(["preview", known, "--steps", "100"]) == 0
    assert "placeholder" not in "".join(capsys.readouterr())


def test_check_tells_misspelt_keys_of_deepspeed(write, capsys):
    section = {"type": "WarmupLR", "params": {"warmup_max_lr": 0.1}}
    good = write({"gradient_accumulation_steps": 2, "scheduler": section}, "good.json")
    bad = write({"gradient_acumulation_steps": 2, "scheduler": section}, "bad.json")
    worse = write({"optimizer": {"type": "SGD", "parameters": {"lr": 0.1}}, "scheduler": section}, "worse.json")
    assert main(["check", str(good), str(bad), str(worse)]) == 1
    first, second, third = capsys.readouterr().out.splitlines()
    assert first.endswith("set Trainer(accumulate_grad_batches=2)")
    misspelt = "gradient_acumulation_steps: DeepSpeed ignores this key (did you mean 'gradient_accumulation_steps'?)"
    assert second.endswith(f"warning: {misspelt}")
    assert "optimizer.parameters: this section has only the keys" in third
    assert "did you mean optimizer.params?" in third


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["preview", "missing.json"], "missing.json: no such file"),
        (["preview", "{auto}"], "total_num_steps='auto' needs to know how long the run is, .* give --steps"),
        (["preview", "{bad}"], "did you mean 'warmup_num_steps'"),
        (["convert", "{bad}"], "did you mean 'warmup_num_steps'"),
    ],
)
def test_what_cannot_be_used_is_told_in_one_line(write, capsys, arguments, complaint):
    files = {
        "{auto}": write(AUTO, "auto.json"),
        "{bad}": write({"type": "WarmupLR", "params": {"warmup_steps": 3}}, "bad.json"),
    }
    assert main([files.get(argument, argument) for argument in arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("lightning-lrsched: ")
    assert error.count("\n") == 1
    assert re.search(complaint, error)


@pytest.mark.parametrize(
    ("option", "values", "complaint"),
    [
        ("--steps", ["0", "-3", "many", "1e3", "9" * 17, "\u0663"], "must be a whole number in 1.."),
        ("--base-lr", ["nan", "inf", "-1", "1e999", "x"], "must be a finite number, at least 0"),
        ("--lr", ["nan"], "must be a finite number, at least 0"),
    ],
)
def test_a_wrong_number_is_refused(write, capsys, option, values, complaint):
    for value in values:
        with pytest.raises(SystemExit):
            main(["preview", write(ONE_CYCLE), f"{option}={value}"])
        assert complaint in capsys.readouterr().err


@pytest.mark.parametrize("command", ["check", "preview", "convert"])
def test_an_empty_path_is_no_folder(capsys, command):
    with pytest.raises(SystemExit):
        main([command, ""])
    assert "must be the path of a file or folder, got ''" in capsys.readouterr().err


def test_convert_does_not_write_over_what_it_reads(write, tmp_path, capsys):
    file = write(ONE_CYCLE)
    before = Path(file).read_bytes()
    assert main(["convert", file, f"{tmp_path}/../{tmp_path.name}/config.json"]) == 2
    assert "is the file that is read" in capsys.readouterr().err
    assert Path(file).read_bytes() == before


def test_a_full_disk_leaves_what_was_there(write, tmp_path, request):
    file, output = write(ONE_CYCLE), write("earlier", "out.yaml")
    request.getfixturevalue("full_disk")
    assert main(["convert", file, output]) == 2
    assert Path(output).read_bytes() == b"earlier"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "out.yaml"]


def test_what_is_no_regular_file_is_written_to_as_it_is(write, tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "target.yaml")  # as /dev/stdout is one
    assert main(["convert", write(ONE_CYCLE), str(tmp_path / "link"), "--to", "yaml"]) == 0
    assert (tmp_path / "link").is_symlink()
    assert yaml.safe_load((tmp_path / "target.yaml").read_text()) == ONE_CYCLE


@pytest.mark.parametrize(
    "content",
    [
        {"x" * 200_000: 1},
        {"scheduler": {"x" * 200_000: 1}},
        {"scheduler": {"type": "WarmupLR", "params": {"x" * 200_000: 1}}},
        {"scheduler": {"type": "WarmupLR", "x" * 200_000: 1}},
        {"optimizer": {"type": "SGD", "params": {"x" * 200_000: 1}}},
        '{"' + "x" * 100_000 + '": 1, "' + "x" * 100_000 + '": 2}',
    ],
)
def test_a_huge_key_gives_a_short_line(write, capsys, content):
    file = write(content)
    assert main(["check", file]) == 1
    assert main(["preview", file]) == 2
    said = capsys.readouterr()
    assert max(map(len, [*said.out.splitlines(), *said.err.splitlines()])) <= 1100


ODD = {
    "nul.yaml": "a: \x00b",
    "control.yaml": "a: \x07",
    "timestamp.yaml": "a: !!timestamp x",
    "bool.yaml": "a: !!bool maybe",
    "quotes.json": "'''",
    "in_key.json": "{\"a\": '''}",
    "surrogate.json": '{"\\ud800": 1}',
    "epochs.json": json.dumps({"type": "WarmupLR", "params": {"warmup_num_steps": "9" * 400 + "ep"}}),
    "percent.json": json.dumps({"type": "WarmupLR", "params": {"warmup_num_steps": "9" * 400 + "%"}}),
    "key.yaml": "? [a]\n: 1\n? {b: 1}\n: 2\n",
    "null.json": json.dumps({"scheduler": {"type": "WarmupLR", "params": None}, "optimizer": None}),
    "types.json": json.dumps({"scheduler": [1], "optimizer": "SGD"}),
    "params.json": json.dumps({"optimizer": {"type": "SGD", "params": {"lr": [1], "momentum": {}}}}),
    "torch.json": json.dumps({"type": "StepLR", "params": {"step_size": {}, "gamma": "x"}}),
    "milestones.json": json.dumps({"type": "MultiStepLR", "params": {"milestones": [3, [1], "x"]}}),
    "phases.json": json.dumps({"type": "PhasedLR", "params": {"phases": [{"steps": [1]}]}}),
}


def test_odd_files_are_errors_of_their_own_and_do_not_end_the_check_of_a_folder(write, tmp_path, capsys):
    for name, text in ODD.items():
        write(text, name)
    write(ONE_CYCLE, "z_good.json")
    assert main(["check", str(tmp_path)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(ODD) + 1
    assert lines[-1].endswith("z_good.json: ok: scheduler OneCycle")
    assert [line for line in lines if "Traceback" in line] == []
    for name in ODD:
        assert main(["preview", str(tmp_path / name), "--steps", "10"]) in (0, 2)


def test_a_preview_of_more_optimizer_steps_than_anybody_makes_is_refused(write, capsys):
    assert main(["preview", write(ONE_CYCLE), "--steps", "99999999999"]) == 2
    assert "--steps must be a whole number in 1..10000000, got 99999999999" in capsys.readouterr().err


IN_TOKENS = {"type": "WarmupDecayLR", "unit": "token", "params": {"total_num_steps": "auto", "warmup_num_steps": 0.1}}


def test_every_command_knows_the_unit(write, tmp_path, capsys):
    file = write({"scheduler": {**IN_TOKENS, "params": {**IN_TOKENS["params"], "warmup_max_lr": 0.1}}})
    assert main(["check", file]) == 0
    assert "ok: scheduler WarmupDecayLR in tokens (total_num_steps, warmup_num_steps: when" in capsys.readouterr().out
    length = ["--steps", "2000000000000"]
    assert main(["preview", file, *length, "--plot", str(tmp_path / "x.png")]) == 0
    first, heads, *rows = capsys.readouterr().out.splitlines()
    assert first == "WarmupDecayLR: 2000000000000 tokens"
    assert heads.split() == ["token", "lr"]
    assert [row.split() for row in rows[:3]] == [
        ["0", "0"], ["100000000000", "0.0973363"], ["200000000000", "0.1"],
    ]  # fmt: skip
    assert main(["preview", file, *length, "--csv"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2002
    assert main(["convert", file, *length]) == 0
    printed = capsys.readouterr()
    assert yaml.safe_load(printed.out)["scheduler"]["unit"] == "token"
    assert printed.err == "note: DeepSpeed itself has no unit: it would read tokens as optimizer steps\n"
    assert main(["preview", file]) == 2
    assert "or write a number of tokens" in capsys.readouterr().err


def test_convert_says_which_schedules_deepspeed_does_not_have(write, capsys):
    phases = [{"steps": 0.1, "lr": "auto"}, {"steps": 5, "lr": {"ratio": 0.1}}]
    assert main(["convert", write({"type": "PhasedLR", "params": {"phases": phases}}), "--steps", "50"]) == 0
    printed = capsys.readouterr()
    expected = {"type": "PhasedLR", "params": {"phases": [{**phases[0], "steps": 5}, phases[1]]}}
    assert yaml.safe_load(printed.out) == expected
    assert "note: DeepSpeed itself has no schedule PhasedLR\n" in printed.err
    assert "phases[0].lr: no number is known" in printed.err
    assert main(["convert", write({"type": "WarmupLR", "params": {}})]) == 0
    assert "DeepSpeed" not in capsys.readouterr().err
