"""A real systemd for tests, as the first process of namespaces of its own, where units of composerd run."""

import contextlib
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

from ..conftest import _missing

PROGRAM = Path("/lib/systemd/systemd")

_TARGETS = ("basic", "multi-user", "network-online", "paths", "remote-fs", "shutdown", "slices", "sockets", "sysinit")
_JOURNAL = ("systemd-journald.service", "systemd-journald.socket")

_PROGRAMS = {"composerd": "composerd.cli.main", "composerd-worker": "composerd_client.worker.command_line"}

_OUTER = """
mount --make-rprivate /
mount -t tmpfs none /run
mkdir /run/cgroup
mount -t cgroup2 none /run/cgroup
mkdir /run/cgroup/{name}
echo $$ > /run/cgroup/{name}/cgroup.procs
exec unshare --cgroup --pid --fork --kill-child --mount-proc sh -euc {inner}
"""

_INNER = """
umount /run/cgroup
umount -R /sys/fs/cgroup
mount -t cgroup2 none /sys/fs/cgroup
for directory in /etc/systemd /var/lib /var/cache /var/log /usr/local/libexec; do
    mkdir -p $directory
    mount -t tmpfs none $directory
done
mkdir -p /run/code/bin /run/systemd/journald.conf.d
printf '[Journal]\\nStorage=volatile\\nReadKMsg=no\\n' > /run/systemd/journald.conf.d/test.conf
{binds}
ip link set lo up
export container=test SYSTEMD_UNIT_PATH={units}
exec {program} --unit=multi-user.target --log-target=journal --show-status=no
"""

_COMMAND = """#!/bin/sh
export PYTHONHOME=/run/code/base PYTHONPATH={path} LD_LIBRARY_PATH=/run/code/base/lib
exec /run/code/base/bin/{python} -c "from {module} import main; main()" "$@"
"""

_CLEAN = """
mount --make-rprivate /
mount -t cgroup2 none /sys/fs/cgroup
find /sys/fs/cgroup/{name} -depth -type d -exec rmdir {{}} +
"""


class Systemd:
    """A running systemd. Its services see this machine, but not its network, and other files below /run and /var."""

    def __init__(self, scratch: Path) -> None:
        """Start systemd. A machine that cannot do that skips the test, or fails it in CI."""
        if not PROGRAM.exists():
            _missing("systemd is not installed: install the package systemd")
        self.units = scratch / "units"
        self.units.mkdir()
        self._name = f"composerd-tests-{os.getpid()}"
        for name in _TARGETS:
            (self.units / f"{name}.target").write_text("[Unit]\nDefaultDependencies=no\n")
        for name in _JOURNAL:
            (self.units / name).write_text((Path("/lib/systemd/system") / name).read_text())
        inner = _INNER.format(binds=_binds(scratch), units=self.units, program=PROGRAM)
        outer = _OUTER.format(name=self._name, inner=shlex.quote(inner))
        self._log = (scratch / "systemd.log").open("w+")
        command = ["unshare", "--mount", "--uts", "--ipc", "--net", "sh", "-euc", outer]
        self._process = subprocess.Popen(command, stdout=self._log, stderr=self._log)
        self._pid = 0
        try:
            self._wait()
        except BaseException:
            self.close()
            raise

    def _wait(self) -> None:
        """Wait until systemd takes commands."""
        deadline = time.monotonic() + 30
        while True:
            with contextlib.suppress(OSError, RuntimeError):
                pid = int(Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text() or 0)
                if pid and Path(f"/proc/{pid}/comm").read_text() == "systemd\n":
                    self._pid = pid
                    self.run("systemctl", "start", "multi-user.target", "systemd-journald.service")
                    return
            if self._process.poll() is not None or time.monotonic() > deadline:
                self._log.seek(0)
                _missing(f"systemd cannot run in namespaces here: {self._log.read()}")
            time.sleep(0.02)

    def run(self, *command: str) -> str:
        """Run a command inside, which must succeed, and return what it prints."""
        entered = ["nsenter", "-t", str(self._pid), "--all", "--wd=/", "env", f"SYSTEMD_UNIT_PATH={self.units}"]
        done = subprocess.run([*entered, *command], capture_output=True, text=True, timeout=60, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"{shlex.join(command)}: {done.stdout}{done.stderr}")
        return done.stdout

    def systemctl(self, *arguments: str) -> str:
        """Run systemctl, which must succeed, and return what it prints."""
        try:
            return self.run("systemctl", "--no-pager", *arguments)
        except RuntimeError as exc:
            exc.add_note(self.run("journalctl", "--no-pager", "-n", "30"))
            raise

    def property(self, unit: str, name: str) -> str:
        """Return a property of a unit."""
        return self.systemctl("show", "--property", name, "--value", unit).strip()

    def add(self, name: str, text: str) -> None:
        """Add a unit, or a part of one, whose programs are those of this checkout."""
        path = self.units / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text.replace("/usr/bin/composerd", "/run/code/bin/composerd"))
        self.systemctl("daemon-reload")

    def close(self) -> None:
        """Kill systemd and everything that it has started."""
        self._process.kill()
        self._process.wait()
        if self._pid:
            while Path(f"/proc/{self._pid}").exists():  # the kernel ends the processes of its namespace with it
                time.sleep(0.01)
        clean = ["unshare", "--mount", "sh", "-euc", _CLEAN.format(name=self._name)]
        subprocess.run(clean, capture_output=True, check=False)
        self._log.close()


def _binds(scratch: Path) -> str:
    """Return the commands that make Python, composerd and its dependencies visible to units, which see no home."""
    entries = [
        entry for entry in sys.path if entry and Path(entry).is_dir() and not entry.startswith(f"{sys.base_prefix}/lib")
    ]
    binds = {"base": sys.base_prefix, **{f"path{number}": entry for number, entry in enumerate(entries)}}
    commands = [
        f"mkdir /run/code/{name}; mount --bind {shlex.quote(source)} /run/code/{name}" for name, source in binds.items()
    ]
    path = ":".join(f"/run/code/{name}" for name in binds if name != "base")
    python = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for name, module in (
        ("composerd", "composerd.cli.main"),
        ("composerd-worker", "composerd_client.worker.command_line"),
    ):
        file = scratch / name
        file.write_text(_COMMAND.format(path=path, python=python, module=module))
        commands.append(f"install -m 755 {shlex.quote(str(file))} /run/code/bin/{name}")
    return "\n".join(commands)
