"""What every small agent here needs: where Gatehouse is, and a tool that runs a command."""

import os
import subprocess
import sys
from collections.abc import Callable

URL = os.environ["GATEHOUSE_URL"]
KEY = os.environ["GATEHOUSE_API_KEY"]
MODEL = os.environ["GATEHOUSE_MODEL"]
ROUNDS = 8
NAME, ABOUT = "run_command", "Run a shell command and return its output"
PARAMETERS = {"type": "object", "properties": {"command": {"type": "string"}}, "required": ["command"]}


def run_command(command: str) -> str:
    """Output of a command, errors included."""
    ran = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
    return (ran.stdout + ran.stderr).strip() or f"exit code {ran.returncode}"


def main(modes: dict[str, Callable[[str], str]]) -> None:
    """`script MODE PROMPT`: print the last answer; 1 and the error's name when there is none."""
    try:
        print(modes[sys.argv[1]](sys.argv[2]))
    except Exception as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(1)
