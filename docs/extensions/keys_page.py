"""The page of all keys, ``docs/keys.md``, with its curves in ``docs/curves``: made from the schedules themselves.

    python docs/extensions/keys_page.py

writes them. They are checked in: a reader of the repository sees them where no site is built.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import schedule_curves
import yaml

from lightning_lrsched.optim.schedulers import SCHEDULES
from lightning_lrsched.schedules.fields import (
    FINDINGS,
    REQUIRED,
    Choice,
    Count,
    Field,
    ListOf,
    Number,
    Others,
    Steps,
    Switch,
    with_keys,
)

DOCS = Path(__file__).parents[1]
SHOWN_STEPS = (0, 1, 2, 3, 4, 10, 20, 50, 100)
HEAD = """\
# Configuration keys

<!-- Made by docs/extensions/keys_page.py from the schedules. Change a field or its docstring there. -->

A configuration is `{"type": ..., "params": {...}}`. The type is one of the names below, with the keys of its table. It
may also be a class of `torch.optim.lr_scheduler` with its own arguments, such as `StepLR`. Such a class counts
optimizer steps, too, and its lengths may be `"auto"`, fractions and epochs. Classes that numbers cannot describe
(LambdaLR, ReduceLROnPlateau) are refused.

- **steps** are finished optimizer steps: a whole number, a fraction of the run (`0.1`, `"10%"`) or epochs (`"2ep"`).
- **number or list**: one number for all param groups, or a list with one number for each.
- **ratio**: `{"ratio": 0.1}` is a tenth of each param group's own value.
- **null** is Python's `None`.
- One more key, `hyperparameters`, is allowed in the params of every type:
  [weight decay, beta2 and others](how_to/weight_decay.md) beside the schedule.
- `"auto"` and `"lr_range_test"` are allowed where a table says what they mean.

[Configuration](configuration.rst) says more about lengths and files. [Schedulers](schedulers.rst) has the formulas.
Each curve is an example on SGD with lr 0.1 and momentum 0.9. The table below a curve has the values of the next step
after the given number of finished steps. If a picture has several curves, the table has the values of the first.
"""
TAIL = """
## The other sections of a file

- `scheduler` holds the schedule, if the file has other sections too.
- `optimizer` holds a class of `torch.optim` with its arguments, and
  [groups by rule](how_to/param_groups.md#groups-by-rule). `configure_optimizers` reads this section. The callback does
  not, and says so in the log. As in DeepSpeed, `"Adam"` means AdamW.
- `trainer_arguments` reads accumulation, clipping, precision and the logging interval from a DeepSpeed file. Nothing
  reads the other sections.
"""


def page() -> str:
    """Return the text of the page."""
    return HEAD + "".join(map(_section, schedule_curves.EXAMPLES)) + TAIL


def picture(name: str) -> str:
    """Return the curve of a schedule as an SVG file with colours of its own."""
    style = 'width="420" font-family="sans-serif" font-size="12" style="background:white"'
    opening = f'xmlns="http://www.w3.org/2000/svg" {style}'
    drawn = schedule_curves.svg(name).replace('class="schedule-curve"', opening, 1)
    return drawn.replace("var(--color-brand-content)", "#2757dd").replace("currentColor", "black") + "\n"


def files() -> dict[Path, str]:
    """Return the text of each file that is made here."""
    curves = {DOCS / "curves" / f"{name}.svg": picture(name) for name in schedule_curves.EXAMPLES}
    return {DOCS / "keys.md": page(), **curves}


def _section(name: str) -> str:
    example = {"type": name, "params": schedule_curves.EXAMPLES[name].params}
    written = yaml.safe_dump(example, sort_keys=False, width=100)
    keys = [[f"`{key}`", *row(field)] for key, field in with_keys(SCHEDULES[name].fields)]
    return f"""
## {name}

{_table(["key", "type", "limits", "default", "words", "meaning"], keys)}
An example:

```yaml
{written}```

![Curve of this example of {name}](curves/{name}.svg)

{_table(["finished steps", *map(str, SHOWN_STEPS)], _values(name))}"""


def _values(name: str) -> Iterable[list[str]]:
    for quantity, curves in schedule_curves.values(name).items():
        first = next(iter(curves.values()))
        yield [quantity, *(f"{first[step]:.4g}" for step in SHOWN_STEPS)]


def row(field: Field) -> list[str]:
    """Return type, limits, default, meaning of the words, and meaning of a key."""
    default = "required" if field.default is REQUIRED else f"`{json.dumps(field.default)}`"
    return [_type(field.rule), _limits(field.rule), default, _words(field), field.help]


def _type(rule: Any) -> str:
    names = {
        Number: "number",
        Steps: "steps",
        Count: "whole number",
        Switch: "true or false",
        Choice: "word",
        Others: "number or list or ratio or null",
        ListOf: "list of mappings",
    }
    others = {"list": "per_group", "ratio": "ratio", "null": "optional", '`"rest"`': "rest"}
    return " or ".join([names[type(rule)], *(kind for kind, name in others.items() if getattr(rule, name, False))])


def _limits(rule: Any) -> str:
    if isinstance(rule, Choice):
        return ", ".join(f'`"{value}"`' for value in rule.allowed)
    if isinstance(rule, ListOf):
        return "the keys below"
    limits = {"at least": "at_least", "above": "above", "below": "below", "at most": "at_most"}
    known = {word: getattr(rule, name, float("inf")) for word, name in limits.items()}
    return ", ".join(f"{word} {limit:g}" for word, limit in known.items() if abs(limit) != float("inf"))


def _words(field: Field) -> str:
    meanings = []
    if isinstance(field.rule, Steps) and field.rule.auto is not None:
        share = "the whole run" if field.rule.auto == 1.0 else f"{field.rule.auto:g} of the run"
        meanings.append(f'`"auto"`: {share}')
    elif field.auto is not None:
        meanings.append(f'`"auto"`: {field.auto}')
    if field.finding is not None:
        meanings.append(f'`"lr_range_test"`: {FINDINGS[field.finding]}')
    return "; ".join(meanings)


def _table(header: list[str], rows: Iterable[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


if __name__ == "__main__":
    (DOCS / "curves").mkdir(exist_ok=True)
    for path, text in files().items():
        path.write_text(text, encoding="utf-8", newline="\n")
