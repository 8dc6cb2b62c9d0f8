"""Parsers of the commands: errors in one line, help on one screen."""

from __future__ import annotations

import argparse
import math
from typing import Any, NoReturn


class UsageError(ValueError):
    """What was asked cannot be done, whatever the pictures are: exit code 2."""


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see `{self.prog} --help`")


class Help(argparse.RawDescriptionHelpFormatter):
    def __init__(self, prog: str):
        super().__init__(prog, max_help_position=22, width=100)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        """`-o, --output OUT`, as Python 3.13 has it: a line less than with OUT twice."""
        if not action.option_strings or action.nargs == 0:
            return super()._format_action_invocation(action)
        value = self._format_args(action, self._get_default_metavar_for_optional(action))
        return f"{', '.join(action.option_strings)} {value}"


def add(commands: Any, name: str, purpose: str, usage: str, examples: str) -> argparse.ArgumentParser:
    """The parser of a command; `usage` is what follows its name, `examples` are lines at the end of its help."""
    lines = "\n".join(f"  {line}" for line in examples.strip().splitlines())
    return commands.add_parser(
        name, help=purpose, description=f"{purpose[0].upper()}{purpose[1:]}.", formatter_class=Help,
        usage=f"ppdiffusers {name} {usage}", epilog=f"examples:\n{lines}",
    )  # fmt: skip


def positive(text: str) -> int:
    """Type of an option: 1, 2, ..."""
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1 on")
    return number


def between(low: float, high: float, what: str = "number") -> Any:
    """Type of an option: a number from `low` to `high`; an int where the text is one."""

    def parse(text: str) -> float:
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if not low <= number <= high:
            raise argparse.ArgumentTypeError(f"{text!r} is no {what} from {low:g} to {high:g}")
        return number

    return parse


def whole(low: int, high: int) -> Any:
    """Type of an option: a whole number from `low` to `high`."""

    def parse(text: str) -> int:
        if not text.strip().lstrip("-").isdecimal() or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number from {low} to {high}")
        return int(text)

    return parse
