"""The conversation with the shells: how they tell the command line, and how they are told the candidates.

Each has a script in this folder, which sets a variable and runs `composerd`.
"""

import os
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from composerd.cli.completing import VARIABLE
from composerd.cli.completing.candidates import Candidate, candidates
from composerd.cli.completing.command_line import find_place, read_table


def script(shell: str) -> str:
    """Return the script for a shell."""
    return Path(__file__).with_name(f"composerd.{shell}").read_text(encoding="utf-8")


def complete(environ: Mapping[str, str]) -> None:
    """Print the candidates for the command line that a script has put into the environment."""
    shell, _, what = environ[VARIABLE].partition("_")
    if shell not in _FORMATS:
        return
    if what == "source":
        sys.stdout.write(script(shell))
        return
    words, word = _command_line(shell, environ)
    place = find_place(read_table(), words, word)
    found = [] if place is None else candidates(place, environ)
    sys.stdout.write("".join(f"{line}\n" for one in found for line in _FORMATS[shell](one, word, environ)))
    sys.stdout.flush()
    os._exit(0)  # a thread may still wait for a server


def _command_line(shell: str, environ: Mapping[str, str]) -> tuple[Sequence[str], str]:
    """Return the words after the name of the program, and the unfinished word."""
    line = environ.get("COMP_LINE")
    if shell == "bash" and line:  # as it was typed: bash takes `fs:/srv` for three words
        typed = line[: int(environ["COMP_POINT"])]
        words = _split(typed)
        while words and "=" in words.pop(0):  # variables may be set before the name of the program
            pass
        return (words, "") if typed[-1:].isspace() else (words[:-1], words[-1] if words else "")
    words = _split(environ["COMP_WORDS"])[1:]
    if shell == "fish":
        word = environ["COMP_CWORD"]
        word = _split(word)[0] if word else ""
        return (words[:-1] if word and words[-1:] == [word] else words), word
    index = int(environ["COMP_CWORD"]) - 1
    return words[:index], words[index] if index < len(words) else ""


def _split(text: str) -> list[str]:
    """Split a command line into words as a shell does; the last one may have no closing quote."""
    lexer = shlex.shlex(text, posix=True)
    lexer.whitespace_split = True
    lexer.commenters = ""
    words: list[str] = []
    try:
        words.extend(lexer)
    except ValueError:
        words.append(lexer.token)
    return words


def _for_bash(one: Candidate, word: str, environ: Mapping[str, str]) -> Sequence[str]:
    """Return lines with what takes the place of the part of the word that bash replaces; see `_for_fish`."""
    replaced = environ.get("COMP_WORD", word)
    kept = len(word) - len(replaced) if word.endswith(replaced) else 0
    path = one.kind in ("file", "dir")
    return _for_fish(one._replace(text=one.text if path else one.text[kept:], before=one.before[kept:], help=""))


def _for_zsh(one: Candidate, _word: str, _environ: Mapping[str, str]) -> Sequence[str]:
    """Return three lines: the kind, the text and the help; for a path, what is before it instead of its text."""
    text = (one.before or "_") if one.kind in ("file", "dir") else one.text
    return one.kind, text.replace(":", r"\:") if one.help else text, one.help or "_"


def _for_fish(one: Candidate, _word: str = "", _environ: Mapping[str, str] = os.environ) -> Sequence[str]:
    """Return a line with the kind and the text; for a path, a line with what is before it comes first."""
    before = (f"before,{one.before}",) if one.before else ()
    return *before, f"{one.kind},{one.text}" + (f"\t{one.help}" if one.help else "")


_FORMATS: Mapping[str, Callable[[Candidate, str, Mapping[str, str]], Sequence[str]]] = {
    "bash": _for_bash,
    "zsh": _for_zsh,
    "fish": _for_fish,
}
