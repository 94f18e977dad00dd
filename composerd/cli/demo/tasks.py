"""The command of the demo's workers: `composerd worker` starts `python -m composerd.cli.demo.tasks` for each job.

Without a network, the tasks can only read the packages and their checksums from a real manifest, and write lists of
them.
"""

import hashlib
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def depsolve(request: Any) -> Any:
    """Return the packages that the manifest needs."""
    items = request["manifest"]["sources"]["org.osbuild.curl"]["items"]
    packages = sorted((source["url"].rpartition("/")[2], checksum) for checksum, source in items.items())
    return {"packages": [{"file": file, "checksum": checksum} for file, checksum in packages]}


def osbuild(request: Any) -> Any:
    """Step through the pipelines, and write a list of packages and a file of checksums for `sha256sum` as artifacts."""
    (depsolved,) = _dynamic_args()
    pipelines = request["manifest"]["pipelines"]
    for number, pipeline in enumerate(pipelines, 1):
        _progress({"pipeline": pipeline["name"], "done": number, "of": len(pipelines)})
        time.sleep(0.3)  # so that the progress is visible
    artifacts = Path(os.environ["COMPOSERD_JOB_ARTIFACTS"])
    files = [package["file"] for package in depsolved["packages"]]
    (artifacts / "packages.txt").write_text("".join(f"{file}\n" for file in files))
    lines = [f"{one['checksum'].removeprefix('sha256:')}  {one['file']}\n" for one in depsolved["packages"]]
    (artifacts / "SHA256SUMS").write_text("".join(lines))
    digest = hashlib.sha256(json.dumps(request["manifest"], sort_keys=True).encode()).hexdigest()
    return {
        "arch": os.environ["COMPOSERD_JOB_ARCH"],
        "packages": len(files),
        "pipelines": [pipeline["name"] for pipeline in pipelines],
        "manifest_sha256": digest,
    }


def summary(_request: Any) -> Any:
    """Write a readable summary of the builds as an artifact."""
    builds = _dynamic_args()
    lines = [f"{one['arch']:10} {one['packages']:5} packages  {' → '.join(one['pipelines'])}\n" for one in builds]
    (Path(os.environ["COMPOSERD_JOB_ARTIFACTS"]) / "summary.txt").write_text("".join(lines))
    return {"builds": len(builds), "packages": sum(one["packages"] for one in builds)}


TASKS: dict[str, Callable[[Any], Any]] = {"depsolve": depsolve, "osbuild": osbuild, "summary": summary}


def _dynamic_args() -> Any:
    return json.loads(Path(os.environ["COMPOSERD_JOB_DYNAMIC_ARGS"]).read_text())


def _progress(partial: Any) -> None:
    with Path(os.environ["COMPOSERD_JOB_PROGRESS"]).open("a") as file:
        file.write(json.dumps(partial) + "\n")


def main() -> None:
    """Run the task that the first argument names; without an argument, the task of the job's type."""
    name = sys.argv[1] if len(sys.argv) > 1 else os.environ["COMPOSERD_JOB_TYPE"]
    result = TASKS[name](json.load(sys.stdin))
    Path(os.environ["COMPOSERD_JOB_RESULT"]).write_text(json.dumps(result))


if __name__ == "__main__":
    main()
