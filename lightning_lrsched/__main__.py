"""The console command: ``lightning-lrsched preview | convert | check``; it needs neither Lightning nor a model."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from lightning_lrsched import __version__
from lightning_lrsched.config.files import SUFFIXES, YAML_SUFFIXES, dump_mapping, write_text
from lightning_lrsched.preview import DEFAULT_BASE_LR, ConfigFile, draw, picture_steps, table, table_steps, to_csv
from lightning_lrsched.schedules.errors import MAX_COUNT, ParameterError, number, to_number
from lightning_lrsched.schedules.length import STEPS

MAX_STEPS = 10_000_000
MAX_LINE = 1000
"""Characters of one message: a key in a file may be as long as the file."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status: 0; 1 if a checked file is bad; 2 if a file cannot be used."""
    args = _parser().parse_args(argv)
    try:
        status: int = args.run(args)
    except BrokenPipeError:
        return 0  # the reader of a pipe (head) has closed it
    except (ImportError, OSError, TypeError, ValueError) as error:
        print(f"lightning-lrsched: {_one_line(error)}", file=sys.stderr)
        return 2
    return status


def preview(args: argparse.Namespace) -> int:
    """Show lr and momentum of one configuration."""
    plot = None if args.plot is None else Path(args.plot if Path(args.plot).suffix else f"{args.plot}.png")
    if args.plot is not None and (not args.plot or Path(args.plot).is_dir()):
        raise ValueError(f"--plot must be the name of a file, got {args.plot!r}")
    file = ConfigFile.read(args.config, args.steps, args.steps_per_epoch, args.base_lr)
    schedule = file.resolved()
    steps, turns, unit = args.steps or schedule.schedule.completed().preview_steps, file.turns(), schedule.unit
    if unit == STEPS and steps > MAX_STEPS:
        raise ValueError(f"--steps must be a whole number in 1..{MAX_STEPS}, got {steps}")
    title = f"{schedule.type} ({file.placeholders})" if file.placeholders else schedule.type
    if args.csv:
        if file.placeholders:
            print(f"({file.placeholders})", file=sys.stderr)
        print(to_csv(file.rows(range(steps + 1) if unit == STEPS else picture_steps(steps)), unit), end="")
    else:
        print(f"{schedule.type}: {steps} {'optimizer steps' if unit == STEPS else f'{unit}s'}")
        if file.placeholders:
            print(f"({file.placeholders})")
        print(table(file.rows(table_steps(steps, turns, unit)), unit))
        if turns:
            print(f"(its parts end at the {unit}s {', '.join(map(str, turns))})")
    if file.known_lr() is None:
        print(
            f"(the optimizer's own lr is taken to be {DEFAULT_BASE_LR}; give another with --base-lr)", file=sys.stderr
        )
    if plot is not None:
        draw(title, file.rows(picture_steps(steps)), turns, unit).savefig(plot, dpi=120)
        print(f"wrote {plot}", file=sys.stderr)
    return 0


def convert(args: argparse.Namespace) -> int:
    """Write a configuration in the other format, with numbers for what can be resolved."""
    file = ConfigFile.read(args.config, args.steps, args.steps_per_epoch, args.base_lr)
    if args.output and Path(args.output).exists() and file.path.samefile(args.output):
        raise ValueError(f"{args.output} is the file that is read: give OUTPUT another name")
    is_yaml = file.path.suffix.lower() in YAML_SUFFIXES
    if args.to is None and args.output:
        args.to = "yaml" if Path(args.output).suffix.lower() in YAML_SUFFIXES else "json"
    content, left = file.converted()
    text = dump_mapping(content, args.to or ("json" if is_yaml else "yaml"))
    if args.output:
        write_text(args.output, text)
    else:
        print(text, end="")
    schedule = file.schedule()
    if schedule.unit != STEPS:
        print(f"note: DeepSpeed itself has no unit: it would read {schedule.unit}s as optimizer steps", file=sys.stderr)
    if not schedule.schedule.in_deepspeed:
        print(f"note: DeepSpeed itself has no schedule {schedule.type}", file=sys.stderr)
    if left:
        print(f"note: {', '.join(left)}: no number is known (--steps, --steps-per-epoch, --base-lr)", file=sys.stderr)
    return 0


def check(args: argparse.Namespace) -> int:
    """Print one line for each file: whether it can be used."""
    return max(map(_check_one, _files(args.configs)), default=0)


def _check_one(path: Path) -> int:
    try:
        print(_one_line(f"{path}: {'; '.join(ConfigFile.read(path).check())}"))
    except (OSError, TypeError, ValueError) as error:
        print(_one_line(error if str(error).startswith(str(path)) else f"{path}: {error}"))
        return 1
    return 0


def _files(paths: list[Path]) -> list[Path]:
    found = []
    for path in paths:
        inside = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES) if path.is_dir() else [path]
        if not inside:
            raise ValueError(f"{path}: the folder has no file that ends in {', '.join(SUFFIXES)}")
        found += inside
    return found


def _one_line(message: object) -> str:
    text = " ".join(str(message).split())
    return text if len(text) <= MAX_LINE else f"{text[: MAX_LINE - 3]}..."


def _steps(text: str) -> int:
    if not (text.isascii() and text.isdecimal()) or len(text) > 16 or not 1 <= int(text) <= MAX_COUNT:
        raise argparse.ArgumentTypeError(f"must be a whole number in 1..{MAX_COUNT}, got {text!r}")
    return int(text)


def _lr(text: str) -> float:
    try:
        return number("it", to_number(text), at_least=0)
    except ParameterError:
        raise argparse.ArgumentTypeError(f"must be a finite number, at least 0, got {text!r}") from None


def _path(text: str) -> Path:
    if not text:
        raise argparse.ArgumentTypeError("must be the path of a file or folder, got ''")
    return Path(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("lightning-lrsched", description="Preview, convert and check configurations.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="preview | convert | check")
    run = argparse.ArgumentParser(add_help=False)
    run.add_argument("config", type=_path, metavar="CONFIG", help="a JSON or YAML file with a scheduler section")
    run.add_argument("--steps", type=_steps, metavar="N", help="length of the run, in the schedule's unit")
    run.add_argument("--steps-per-epoch", type=_steps, metavar="N", help='for values such as "2ep"')
    run.add_argument(
        "--base-lr", "--lr", type=_lr, metavar="X", help="the optimizer's own lr, where the file does not give it"
    )

    command = commands.add_parser("preview", parents=[run], help="show lr and momentum of each param group")
    command.add_argument(
        "--csv", action="store_true", help="every step, as CSV, instead of the table; of samples or tokens, 2000 rows"
    )
    command.add_argument("--plot", metavar="FILE.png", help="also write a picture")
    command.set_defaults(run=preview)

    command = commands.add_parser("convert", parents=[run], help="JSON to YAML or back, with numbers for auto")
    command.add_argument("output", nargs="?", metavar="OUTPUT", help="file to write; none: the terminal")
    command.add_argument("--to", choices=("json", "yaml"), help="format; otherwise by OUTPUT's name, or the other one")
    command.set_defaults(run=convert)

    command = commands.add_parser("check", help="one line per file; exit status 1 if any is bad")
    command.add_argument("configs", nargs="+", type=_path, metavar="CONFIG", help="files, or folders with such files")
    command.set_defaults(run=check)
    return parser


if __name__ == "__main__":
    sys.exit(main())
