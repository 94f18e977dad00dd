"""The pages whose commands are run as they stand there, and print what is said there."""

from pathlib import Path

from .conftest import LOOPBACK
from .shell_pages import Reader


async def test_the_tutorial(tmp_path: Path) -> None:
    """Whoever types the commands of the tutorial has jobs that finish, and their files."""
    await Reader(tmp_path).read("docs/tutorial.md")
    assert (tmp_path / "sum").read_text().endswith("  -\n")


async def test_protect_a_server(tmp_path: Path) -> None:
    """Whoever types the commands of the page about tokens has a server that lets in who has a token."""
    reader = Reader(tmp_path, {"DNS:composerd.example.com": f"IP:{LOOPBACK}"})
    await reader.read("docs/how-to/protect-a-server.md")


async def test_rotation_and_revocation(tmp_path: Path) -> None:
    """Whoever follows the page about rotation changes to a new token without a gap, and ends one at once."""
    await Reader(tmp_path).read("docs/how-to/rotation-and-revocation.md")
