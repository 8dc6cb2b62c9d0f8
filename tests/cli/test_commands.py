"""What all commands share: help, versions, completion, messages without paddle, progress."""

import argparse
import io
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from ppdiffusers.cli import main as main_module
from ppdiffusers.cli.main import COMMANDS, build_parser, main
from ppdiffusers.cli.report import Report
from ppdiffusers.version import __version__

ROOT = Path(__file__).parents[2]


def python(*arguments):
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, cwd=ROOT, timeout=120)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_a_screen_that_ends_in_examples(command, capsys):
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 50 and max(map(len, lines)) <= 110
    examples = lines[lines.index("examples:") + 1 :]
    assert examples and f"ppdiffusers {command}" in examples[0]


@pytest.mark.parametrize("command", COMMANDS)
def test_the_list_of_commands_says_what_each_says(command, capsys):
    module = __import__(f"ppdiffusers.cli.{command.replace('-', '_')}", fromlist=["PURPOSE"])
    assert module.PURPOSE == COMMANDS[command]


@pytest.mark.parametrize("arguments", [["--help"], ["upscale", "--help"], ["generate", "--help"], ["--version"]])
def test_help_does_not_wait_for_paddle_or_numpy(arguments):
    code = f"import sys, ppdiffusers.cli.main as m\ntry: m.main({arguments})\nexcept SystemExit: pass\n"
    code += "assert not {'paddle', 'numpy', 'PIL', 'requests', 'tqdm'} & set(sys.modules)"
    done = python("-c", code)
    assert done.returncode == 0, done.stderr


def test_examples_of_the_help_are_understood(tmp_path, monkeypatch):
    """Every line that calls a command parses."""
    parser = build_parser(None)
    count = 0
    for command in COMMANDS:
        module = __import__(f"ppdiffusers.cli.{command.replace('-', '_')}", fromlist=["EXAMPLES"])
        for line in module.EXAMPLES.strip().splitlines():
            found = re.search(r"ppdiffusers ([\w-]+) (.*?)(  +\S.*|>.*|\)\".*|\| .*)?$", line)
            if found:
                import shlex

                parser.parse_args([found[1], *shlex.split(found[2])])
                count += 1
    assert count > 12


def test_run_as_modules():
    for module, word in (("ppdiffusers", "upscale"), ("model_zoo", "download")):
        done = python("-m", module, "--help")
        assert done.returncode == 0 and word in done.stdout
    assert python("-m", "ppdiffusers", "--version").stdout == f"ppdiffusers {__version__}\n"


def test_without_paddle_one_line_says_what_to_install(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    code = (
        "import sys; sys.modules['paddle'] = None\nfrom ppdiffusers.cli.main import main\nsys.exit(main(sys.argv[1:]))"
    )
    for arguments in (["upscale", tmp_path / "a.png"], ["sample", "-o", tmp_path / "b.png"]):
        done = python("-c", code, *map(str, arguments))
        assert done.returncode == 2
        (line,) = done.stderr.splitlines()
        assert "pip install paddlepaddle" in line
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_no_message_advises_a_distribution_that_no_index_has():
    files = [path for folder in ("ppdiffusers", "model_zoo") for path in (ROOT / folder).rglob("*.py")]
    assert not [path for path in files if re.search(r"install.*paddle-latent-diffusion", path.read_text())]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_names_every_option(shell, capsys):
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    parser = build_parser(None)
    (commands,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    for name, command in commands.choices.items():
        assert name in script
        for action in command._actions:
            assert all(word.lstrip("-") in script for word in action.option_strings)


def test_bash_completes(capsys):
    main(["completion", "bash"])
    script = capsys.readouterr().out

    def complete(*words):
        quoted = " ".join(f"'{word}'" for word in words)
        code = f"{script}\nCOMP_WORDS=({quoted}); COMP_CWORD={len(words) - 1}; _ppdiffusers; echo ${{COMPREPLY[@]}}"
        done = subprocess.run(["bash", "-c", code], capture_output=True, text=True)
        assert not done.stderr
        return done.stdout.split()

    assert complete("ppdiffusers", "ups") == ["upscale"]
    assert complete("ppdiffusers", "upscale", "--jpe") == ["--jpeg-quality"]
    assert complete("ppdiffusers", "upscale", "--quality", "b") == ["balanced", "best"]
    assert complete("ppdiffusers", "completion", "z") == ["zsh"]


# Progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


def report(monkeypatch, terminal, total=2, **options):
    now = [0.0]
    stream = Terminal() if terminal else io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    args = argparse.Namespace(**{"json": False, "quiet": False, "verbose": False, "dry_run": False, **options})
    return Report(args, total, clock=lambda: now[0]), now, stream


def test_progress_on_a_terminal_tells_the_time_that_is_left(monkeypatch):
    told, now, stream = report(monkeypatch, terminal=True)
    told.expect(100)
    told.expect(300)
    told.begin("a.png", 100)
    now[0] = 10
    told.progress(0.5, "step 5/10")
    now[0] = 20
    told.finished("a.png done")
    told.begin("b.png", 300)
    now[0] = 21
    told.progress(0.0, "step 1/10")
    lines = [line for line in stream.getvalue().split("\r") if line.strip()]
    assert any(line.startswith("[1/2] a.png: step 5/10, 1:10 left") for line in lines)
    assert lines[-1].strip() == "[2/2] b.png: step 1/10, 1:03 left"
    assert "\n" not in stream.getvalue()


def test_pictures_that_fail_are_no_work_to_come(monkeypatch):
    told, now, stream = report(monkeypatch, terminal=True, total=3)
    for pixels in (100, 700, 100):
        told.expect(pixels)
    told.begin("a.png", 100)
    now[0] = 10
    told.finished("a.png done")
    told.begin("b.png", 700)
    told.fail("b.png", ValueError("damaged"))
    told.begin("c.png", 100)
    now[0] = 11
    told.progress(0.1, "step 1/10")
    assert "[3/3] c.png: step 1/10, 0:09 left" in stream.getvalue()
    assert told.close() == 1


def test_progress_without_a_terminal_is_a_plain_line_now_and_then(monkeypatch):
    told, now, stream = report(monkeypatch, terminal=False)
    told.expect(1000)
    told.begin("a.png", 1000)
    for second in range(1, 100):
        now[0] = second
        told.progress(second / 100, "step 1/10")
    lines = stream.getvalue().splitlines()
    assert 3 <= len(lines) <= 6 and lines[-1] == "ppdiffusers: [1/2] a.png: step 1/10, 0:20 left"
    assert "\r" not in stream.getvalue()


def test_quiet_shows_no_progress(monkeypatch):
    told, now, stream = report(monkeypatch, terminal=True, quiet=True)
    told.begin("a.png", 10)
    now[0] = 100
    told.progress(0.5, "step")
    assert stream.getvalue() == "" and told.close() == 0


def test_the_error_of_a_closed_pipe_is_no_traceback(monkeypatch):
    code = "import sys; from ppdiffusers.cli.main import main; sys.exit(main(['completion', 'bash']))"
    done = subprocess.run(
        f'{sys.executable} -c "{code}" | head -1', shell=True, capture_output=True, text=True, cwd=ROOT
    )
    assert "Traceback" not in done.stderr


def test_an_unknown_command_is_one_line(capsys):
    assert main_module.main(["upscal", "a.png"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "upscale" in line


def test_the_runner_of_exported_models_comes_with_the_package(tmp_path, capsys):
    assert main(["deploy-runner"]) == 0
    script = capsys.readouterr().out
    assert script == (ROOT / "ppdiffusers/deploy/run_super_resolution.py").read_text()
    assert "ppdiffusers" not in re.findall(r"^ *(?:import|from) (\w+)", script, re.M)
    assert main(["deploy-runner", str(tmp_path / "new")]) == 0
    written = sorted(file.name for file in (tmp_path / "new").iterdir())
    assert {"README.md", "check_part.cc", "run_super_resolution.py"} <= set(written)
    assert capsys.readouterr().out.split() == [str(tmp_path / "new" / name) for name in written]
    assert main(["deploy-runner", str(tmp_path / "new")]) == 2
    assert "exists; give another folder" in capsys.readouterr().err
