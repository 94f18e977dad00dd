"""Completion in bash, zsh and fish by click, which in addition has to know the part of a word that the shell replaces.

That is only a part of words such as `--state=run`, `fs:/srv`, `@file` and `test:x`. Small changes of click's scripts
are for that, for `fs:` and `@` without a space behind them, and for the order of the candidates in fish.
"""

import os
from glob import escape, glob
from pathlib import Path

from click.shell_completion import (
    BashComplete,
    CompletionItem,
    FishComplete,
    ShellComplete,
    ZshComplete,
    add_completion_class,
    split_arg_string,
)

from composerd.cli.completing import SAFE


class _Word(ShellComplete):
    """Formats what takes the place of the part of a word that the shell replaces."""

    _word = ""

    def get_completions(self, args: list[str], incomplete: str) -> list[CompletionItem[str]]:
        self._word = incomplete
        return super().get_completions(args, incomplete)

    def format_completion(self, item: CompletionItem[str]) -> str:
        if item.type == "plain":
            option, equals, _ = self._word.partition("=")
            whole = f"{option}={item.value}" if equals and option.startswith("-") else item.value
            return super().format_completion(CompletionItem(whole[self._kept(item) :], help=item.help))
        before = self._word.removesuffix(item.value)[self._kept(item) :]
        return _paths(before, item) if before else super().format_completion(item)

    def _kept(self, _item: CompletionItem[str]) -> int:
        """Return the number of characters of the word that the shell keeps."""
        return 0


def _paths(before: str, item: CompletionItem[str]) -> str:
    """Return lines with paths, for a word in which a shell completes none because of what is before the path."""
    paths = glob(f"{escape(item.value)}*")  # noqa: PTH207  # keeps a leading ./
    shown = [f"{path}/" if Path(path).is_dir() else path for path in sorted(paths)]
    return "\n".join(
        f"plain,{before}{path}" for path in shown if SAFE.fullmatch(path) and (item.type == "file" or path[-1] == "/")
    )


class _Bash(_Word, BashComplete):
    source_template = BashComplete.source_template.replace(
        "env ", 'env COMP_LINE="$COMP_LINE" COMP_POINT="$COMP_POINT" COMP_WORD="$2" ', 1
    ).replace("COMPREPLY+=($value)", "COMPREPLY+=($value); [[ $value != *[:@/] ]] || compopt -o nospace", 1)

    def get_completion_args(self) -> tuple[list[str], str]:
        line = os.environ.get("COMP_LINE")
        if not line:
            return super().get_completion_args()
        typed = os.fsdecode(os.fsencode(line)[: int(os.environ["COMP_POINT"])])
        words = split_arg_string(typed)  # bash itself takes `fs:/srv` for three words
        while words and "=" in words.pop(0):  # variables may be set before the name of the program
            pass
        return (words, "") if typed[-1:].isspace() else (words[:-1], words[-1] if words else "")

    def _kept(self, _item: CompletionItem[str]) -> int:
        replaced = os.environ.get("COMP_WORD", self._word)
        return len(self._word) - len(replaced) if self._word.endswith(replaced) else 0


class _Zsh(_Word, ZshComplete):
    source_template = ZshComplete.source_template.replace(
        "local -a completions\n", "local -a completions suffix\n    compset -P '*[=:@]'\n", 1
    ).replace(
        "compadd -U -V unsorted -a completions",
        """[[ -z $completions[(r)*[:@]] ]] || suffix=(-S '')
        compadd -U -V unsorted "${suffix[@]}" -a completions""",
        1,
    )

    def _kept(self, item: CompletionItem[str]) -> int:
        return 0 if item.type == "plain" else len(self._word)  # compset tells zsh where a path begins


class _Fish(_Word, FishComplete):
    source_template = FishComplete.source_template.replace("--no-files", "--no-files --keep-order", 1)


def register() -> None:
    """Make click use these classes."""
    for shell in (_Bash, _Zsh, _Fish):
        add_completion_class(shell)
