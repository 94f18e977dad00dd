"""The options and the help of the commands `composerd-worker` and `composerd worker`, which are the same."""

import platform
from collections.abc import Sequence

from composerd_protocol.options import SERVER_OPTIONS, Option, word
from composerd_protocol.units import number, parse_duration, parse_size

OPTIONS: Sequence[Option] = (
    Option(
        flag="--type",
        name="types",
        metavar="TYPE",
        parse=word,
        repeatable=True,
        required=True,
        help="Type of job to run; repeatable.",
    ),
    Option(
        flag="--arch",
        name="arch",
        metavar="ARCH",
        parse=word,
        default=platform.machine(),
        help="Architecture this worker runs jobs for.",
    ),
    Option(
        flag="--concurrency",
        name="concurrency",
        metavar="N",
        parse=number(1, 1000),
        default="1",
        help="Number of jobs to run at the same time, 1 to 1000.",
    ),
    Option(
        flag="--min-free-space",
        name="min_free_space",
        metavar="SIZE",
        parse=parse_size,
        shown_default="5% of the file system, at most 1GiB",
        help="Request no jobs while less is free where scratch directories are made (TMPDIR); 0: no limit.",
    ),
    Option(
        flag="--health-check",
        name="health_check",
        metavar="COMMAND",
        help="Command for the shell to run before each request for a job: none is requested while its exit status is "
        "not 0.",
    ),
    Option(
        flag="--stop-after",
        name="stop_after",
        metavar="DURATION",
        parse=parse_duration,
        shown_default="wait until they are finished",
        help="After SIGTERM, release jobs that still run after this time.",
    ),
    Option(
        flag="--once", name="once", help="Run one job, then exit; exit with 1 if it failed, was canceled or was lost."
    ),
    *SERVER_OPTIONS,
)

HELP = """\
Request jobs from the server, and run COMMAND for each.

COMMAND starts in an empty directory, with the job's args as JSON on stdin. Files that it leaves in the directory
$COMPOSERD_JOB_ARTIFACTS are uploaded. If it writes JSON to the file $COMPOSERD_JOB_RESULT, that is the result; without
it the result is the exit status and the output. Each line of JSON that it appends to the file $COMPOSERD_JOB_PROGRESS
is shown as progress. The file $COMPOSERD_JOB_DYNAMIC_ARGS has the results of the job's dependencies.
$COMPOSERD_JOB_ID, $COMPOSERD_JOB_TYPE and $COMPOSERD_JOB_ARCH describe the job.

If this machine cannot run jobs, the worker releases those that it has, and pauses.

On SIGTERM running jobs are finished first, or released after --stop-after; a second SIGTERM releases them at once.
"""

EXAMPLE = "--type build --arch aarch64 -- ./build-image"
"""The arguments of the example in the help."""
