"""What a schedule's docstring says of its parameters: the source of every ``--help``."""

from __future__ import annotations

import inspect
import re

from lightning_lrsched.schedulers import SCHEDULERS

ENTRY = re.compile(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", re.MULTILINE)
MARKUP = re.compile(r":\w+:`([^`]*)`|`{1,2}([^`]*)`{1,2}")


def parameter_docs(scheduler_class: type) -> dict[str, str]:
    """Return name -> description of the parameters in a Google-style docstring; empty where docstrings are stripped.

    >>> parameter_docs(SCHEDULERS["WarmupLR"])["warmup_type"]
    '"log" or "linear".'
    """
    arguments = re.search(r"^Args:\n((?: {4}.*\n|\n)+)", inspect.cleandoc(scheduler_class.__doc__ or "") + "\n", re.M)
    entries = ENTRY.findall(arguments[1]) if arguments else []
    return {name: MARKUP.sub(r"\1\2", " ".join(text.split())) for name, text in entries}


def default_of(parameter: inspect.Parameter) -> str:
    """Return a parameter's default as a configuration would write it."""
    if parameter.default is parameter.empty:
        return "required"
    return str(parameter.default).lower()


def describe_schedules() -> str:
    """Return a plain-text list of every schedule with its parameters, their meaning and default."""
    lines = []
    for name, scheduler_class in SCHEDULERS.items():
        documented = parameter_docs(scheduler_class)
        lines.append(f"{name}: {inspect.cleandoc(scheduler_class.__doc__ or '').partition(chr(10))[0]}")
        lines += [
            f"  {key}: {documented.get(key, '')} (default: {default_of(parameter)})"
            for key, parameter in scheduler_class.parameters().items()
        ]
    return "\n".join(lines)
