"""The pages whose commands are run as they stand there, and print what is said there."""

from pathlib import Path

from .conftest import LOOPBACK
from .shell_pages import Reader


async def test_the_tutorial(tmp_path: Path) -> None:
    """The commands of the tutorial make jobs that finish, and their files."""
    await Reader(tmp_path).read("docs/tutorial.md")
    assert (tmp_path / "sum").read_text().endswith("  -\n")


async def test_protect_a_server(tmp_path: Path) -> None:
    """The commands of the page about tokens make a server that lets in those who have a token."""
    reader = Reader(tmp_path, {"DNS:composerd.example.com": f"IP:{LOOPBACK}"})
    await reader.read("docs/how-to/protect-a-server.md")


async def test_rotation_and_revocation(tmp_path: Path) -> None:
    """The commands of the page about rotation change to a new token without a gap, and end one at once."""
    await Reader(tmp_path).read("docs/how-to/rotation-and-revocation.md")
