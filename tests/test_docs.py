"""The pages: their links and the files and modules that they name exist; every log message and metric is explained."""

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

TOP = Path(__file__).parents[1]
DOCS = TOP / "docs"
PAGES = sorted(
    [
        *DOCS.rglob("*.md"),
        *TOP.glob("specs/*.md"),
        TOP / "benchmarks" / "README.md",
        TOP / "README.md",
        TOP / "CONTRIBUTING.md",
        TOP / "CHANGELOG.md",
    ]
)
SOURCES = sorted([*TOP.glob("composerd/**/*.py"), *TOP.glob("drivers/**/*.py")])

GENERATED = {"driver-kit.md", "CHANGELOG.md"}
"""Pages that say by themselves whom they are for, or whose sentences a test writes."""

ENTRY_POINTS = {"composerd.drivers"}
"""Names with dots that are no modules."""

FOLDERS = "composerd|drivers|docs|specs|tests|benchmarks"

pages = pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(TOP)) for page in PAGES])


def prose(page: Path) -> list[str]:
    """Return the lines of a page without code blocks, headings and tables."""
    text = re.sub(r"^( *)```.*?^\1```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    return [line for line in text.splitlines() if not re.match(r"#|\||    \s*[^-\s]|--8<--", line)]


def names(text: str) -> Iterator[str]:
    """Yield what a text has in backticks."""
    yield from re.findall(r"`([^`\n]+)`", text)


def without_code_blocks(page: Path) -> str:
    """Return a page without its fenced code blocks."""
    return re.sub(r"^( *)```.*?^\1```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


@pages
def test_links(page: Path) -> None:
    """Every relative link of a page leads to a file; `tox -e docs` checks the anchors."""
    for target in re.findall(r"\]\(([^)\s]+)\)", without_code_blocks(page)):
        if not re.match(r"[a-z]+:|#", target):
            assert (page.parent / target.partition("#")[0]).exists(), target


@pages
def test_paths(page: Path) -> None:
    """Every path of the source that a page names exists."""
    for name in names(without_code_blocks(page)):
        if re.fullmatch(rf"(?:{FOLDERS})/[\w./-]*", name):
            assert (TOP / name).exists() or list(TOP.glob(f"tests/thirdparty/*/{name}")), name


@pages
def test_whom_it_is_for(page: Path) -> None:
    """A page says below its title whom it is for."""
    text = page.read_text(encoding="utf-8")
    if page.name not in GENERATED and page != TOP / "README.md" and not text.startswith("--8<--"):
        assert re.match(r"# .+\n\n\*For .+\*\n", text)


@pages
def test_one_sentence_a_line(page: Path) -> None:
    """The source of a page has one sentence on a line."""
    if page.name not in GENERATED:
        for line in prose(page):
            text = re.sub(r"\([^()]*\)", "x", re.sub(r"`[^`]*`|\[[^\]]*\]", "X", line))
            assert not re.search(r"[a-zx)*][.?!] [A-Z]", text), line


def docstrings() -> Iterator[tuple[Path, str]]:
    """Yield every string of the source that stands alone: docstrings, and those below a field."""
    for path in [*SOURCES, *TOP.glob("tests/**/*.py"), *TOP.glob("benchmarks/*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if (
                isinstance(node, ast.Expr)
                and isinstance(node.value, ast.Constant)
                and isinstance(node.value.value, str)
            ):
                yield path, node.value.value


def exists(name: str) -> bool:
    """Return True if a dotted name is a module, or something in one."""
    parts = name.split(".")
    for split in range(len(parts), 0, -1):
        try:
            found: object = importlib.import_module(".".join(parts[:split]))
        except ModuleNotFoundError:
            continue
        for part in parts[split:]:
            if not hasattr(found, part) and part not in getattr(found, "__annotations__", {}):
                return False
            found = getattr(found, part, None)
        return True
    return False


def test_modules() -> None:
    """Every module, class and function of ours that a page or a docstring names with its dots exists."""
    texts = [(page, without_code_blocks(page)) for page in PAGES if page.name != "CHANGELOG.md"]
    missing = {
        (str(path.relative_to(TOP)), name)
        for path, text in [*texts, *docstrings()]
        for name in names(text)
        if re.fullmatch(r"composerd(?:_fs|_postgres)?(?:\.[A-Za-z_]\w*)+", name)
        if name not in ENTRY_POINTS and not exists(name)
    }
    assert not missing


def test_paths_in_docstrings() -> None:
    """Every page and file that a docstring names exists."""
    missing = {
        (str(path.relative_to(TOP)), name)
        for path, text in docstrings()
        for name in re.findall(rf"\b(?:{FOLDERS})/[\w./-]*\w\.(?:md|json|py|sql)\b", text)
        if not (TOP / name).exists() and not (path.parent / name).exists()
    }
    assert not missing


def messages() -> Iterator[str]:
    """Yield every message that the server or a worker logs at warning or above, with an ellipsis for each value."""
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr in ("warning", "error", "exception", "critical")
                and isinstance(node.func.value, ast.Name)
                and node.func.value.id in ("log", "logger")
            ):
                message = node.args[0]
                assert isinstance(message, ast.Constant), f"{path}:{node.lineno}: a message that cannot be searched for"
                yield re.sub(r"%(?:\.\d+)?[a-z]", "…", str(message.value))


def test_log_messages() -> None:
    """Every message of level warning and above is on its page, as it is logged."""
    page = (DOCS / "reference" / "log-messages.md").read_text(encoding="utf-8")
    assert [message for message in messages() if message not in page] == []
    writer = (TOP / "drivers/composerd_fs/journal/writer.py").read_text(encoding="utf-8")
    reasons = re.findall(r'self\._break\("([^"]+)"', writer)
    assert reasons
    assert [reason for reason in reasons if f"`…: {reason} (…)" not in page] == []


def test_metrics() -> None:
    """Every metric is on its page."""
    page = (DOCS / "reference" / "metrics.md").read_text(encoding="utf-8")
    source = (TOP / "composerd" / "server" / "metrics.py").read_text(encoding="utf-8")
    named = set(re.findall(r'"(composerd_\w+)"', source))
    assert len(named) > 5
    assert {name for name in named if not re.search(rf"`{name}(?:_total|_count)?`", page)} == set()
