"""The quotas file: which limits each channel has, and what is wrong with a file that is refused."""

import re
from pathlib import Path

import pytest

from composerd.quotas import Limits, Quota, parse

EXAMPLE = b"""
[default]
waiting_jobs = 1000
payload_bytes = "10GiB"

[tenants.acme]
waiting_jobs = "unlimited"
running_jobs = 4

[tenants."big team"]

[no-tenant]
waiting_jobs = 0
artifact_bytes = 4096
"""


@pytest.mark.parametrize(
    ("channel", "limits"),
    [
        ("org-other", Limits(waiting_jobs=1000, payload_bytes=10 * 1024**3)),
        ("org-acme", Limits(running_jobs=4, payload_bytes=10 * 1024**3)),
        ("org-big team", Limits(waiting_jobs=1000, payload_bytes=10 * 1024**3)),
        ("", Limits(waiting_jobs=0, payload_bytes=10 * 1024**3, artifact_bytes=4096)),
        ("acme", Limits(waiting_jobs=1000, payload_bytes=10 * 1024**3)),
    ],
)
def test_limits_of_a_channel(channel: str, limits: Limits) -> None:
    """A tenant has the limits of its table, and those of the default where its table says nothing."""
    assert parse(EXAMPLE).of(channel) == limits


def test_example_of_the_page() -> None:
    """The example of the reference is a valid file, which limits what the page says."""
    page = (Path(__file__).parents[2] / "docs" / "reference" / "quotas.md").read_text()
    example = re.search(r"```toml\n(.*?)```", page, re.DOTALL)
    assert example is not None
    table = parse(example[1].encode())
    assert table.of("org-acme").running_jobs == 1000
    assert table.of("org-acme").waiting_jobs == table.of("org-anybody").waiting_jobs == 10_000
    assert table.of("org-internal").running_jobs is None
    assert table.of("").submissions_per_minute == 60
    assert {f"`{quota}`" for quota in Quota} <= set(re.findall(r"^\| (`\w+`) \|", page, re.MULTILINE))


def test_nothing_is_limited_by_an_empty_file() -> None:
    """An empty file sets no limit."""
    table = parse(b"")
    assert table.of("org-acme") == Limits()
    assert not table.limits(tuple(Quota))


def test_which_quotas_a_file_has() -> None:
    """A file says which quotas it limits, whichever tenant that is for."""
    table = parse(EXAMPLE)
    assert table.limits((Quota.ARTIFACT_BYTES, Quota.OPEN_WAITS))
    assert not table.limits((Quota.OPEN_WAITS, Quota.SUBMISSIONS_PER_MINUTE))


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"\xff", "it is not valid TOML"),
        (b"[default", "it is not valid TOML"),
        (b"waiting_jobs = 1", "'waiting_jobs' is not known there: write [default]"),
        (b"[tenant.acme]", "'tenant' is not known there"),
        (b"default = 1", "default is not a table: write [default]"),
        (b"tenants = 1", "tenants is not a table: write [tenants.NAME]"),
        (b"[tenants]\nacme = 1", "tenants.acme is not a table"),
        (b"[default]\njobs = 1", "[default] has 'jobs', but the quotas are waiting_jobs, running_jobs"),
        (b"[default]\nwaiting_jobs = -1", "waiting_jobs in [default]: '-1' is not a whole number"),
        (b"[default]\nwaiting_jobs = 1.5", "waiting_jobs in [default]: '1.5' is not a whole number"),
        (b"[default]\nwaiting_jobs = true", "waiting_jobs in [default]: 'True' is not a whole number"),
        (b'[default]\nwaiting_jobs = "1GiB"', "waiting_jobs in [default]: '1GiB' is not a whole number"),
        (b'[tenants.a]\npayload_bytes = "1 GB"', "payload_bytes in [tenants.a]: '1 GB' is not a size"),
        (b"[no-tenant]\nartifact_bytes = [1]", "artifact_bytes in [no-tenant]: '[1]' is not a whole number"),
    ],
)
def test_refused_files(content: bytes, problem: str) -> None:
    """A file with anything that is not known is refused, in a sentence that says what and where."""
    with pytest.raises(ValueError, match="^" + re.escape(problem)):
        parse(content)
