"""`ppdiffusers completion`: what makes a shell complete commands, options and their values."""

from __future__ import annotations

import argparse
import shlex
from typing import Any, List

from ppdiffusers.cli.parsing import add

PURPOSE = "print what makes a shell complete these commands"
EXAMPLES = """
eval "$(ppdiffusers completion bash)"                        in ~/.bashrc
eval "$(ppdiffusers completion zsh)"                         in ~/.zshrc
ppdiffusers completion fish > ~/.config/fish/completions/ppdiffusers.fish
"""

_BASH = """\
_ppdiffusers() {
    local word="${COMP_WORDS[COMP_CWORD]}" last="${COMP_WORDS[COMP_CWORD-1]}" words=""
    if [ "$COMP_CWORD" -eq 1 ]; then
        words="%(commands)s --help --version"
    else
        case "${COMP_WORDS[1]} $last" in
%(values)s
        *)
            case "$word" in
            -*)
                case "${COMP_WORDS[1]}" in
%(options)s
                esac ;;
            esac ;;
        esac
    fi
    if [ -n "$words" ]; then
        COMPREPLY=($(compgen -W "$words" -- "$word"))
    else
        COMPREPLY=($(compgen -f -- "$word"))
    fi
}
complete -o filenames -F _ppdiffusers ppdiffusers
"""


def add_parser(commands: Any) -> None:
    parser = add(commands, "completion", PURPOSE, "SHELL", EXAMPLES)
    parser.add_argument("shell", metavar="SHELL", choices=("bash", "zsh", "fish"), help="bash, zsh or fish")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from ppdiffusers.cli import main

    parser = main.build_parser(None)
    (commands,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    print(fish(commands.choices) if args.shell == "fish" else bash(commands.choices, args.shell == "zsh"), end="")
    return 0


def bash(commands: Any, zsh: bool = False) -> str:
    """A script for bash; zsh runs it too, after two lines of its own."""
    options, values = [], []
    for name, command in commands.items():
        words = " ".join(sorted(word for action in command._actions for word in action.option_strings))
        options.append(f"                {name}) words={shlex.quote(words)} ;;")
        for action in command._actions:
            if action.choices:
                keys = "|".join(shlex.quote(f"{name} {word}") for word in action.option_strings or [name])
                values.append(f"        {keys}) words={shlex.quote(' '.join(map(str, action.choices)))} ;;")
    head = "autoload -U +X compinit && compinit\nautoload -U +X bashcompinit && bashcompinit\n" if zsh else ""
    return head + _BASH % {"commands": " ".join(commands), "options": "\n".join(options), "values": "\n".join(values)}


def fish(commands: Any) -> str:
    lines: List[str] = []
    for name, command in commands.items():
        said = shlex.quote(str(command.description or ""))
        lines.append(f"complete -c ppdiffusers -n __fish_use_subcommand -f -a {name} -d {said}")
        for action in command._actions:
            flags = " ".join(
                f"-l {word[2:]}" if word.startswith("--") else f"-s {word[1:]}" for word in action.option_strings
            )
            if not flags:
                continue
            takes = "" if action.nargs == 0 else " -r"
            choices = f" -f -a {shlex.quote(' '.join(map(str, action.choices)))}" if action.choices else ""
            about = shlex.quote((action.help or "").replace("%(default)s", str(action.default)))
            lines.append(
                f"complete -c ppdiffusers -n '__fish_seen_subcommand_from {name}' {flags}{takes}{choices} -d {about}"
            )
    return "\n".join(lines) + "\n"
