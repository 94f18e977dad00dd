"""The report of `spine`: the figures, their targets, and both as text."""

from collections.abc import Iterator, Mapping, Sequence
from statistics import median, quantiles
from typing import Any, NamedTuple

import msgspec

from benchmarks.disk import Disk
from benchmarks.loads import Sample

LIMIT = "limit"
BARE = "bare application"
COMPOSERD = "composerd"
FOREIGN = "composerd, foreign jobs"
POSTGRES = "composerd on PostgreSQL"
TOKENS = "composerd, tokens"
RS256 = "composerd, JWT with RS256"
ES256 = "composerd, JWT with ES256"

SUBMIT = "submit"
WORK = "request + finish"


class Throughput(msgspec.Struct, frozen=True):
    """The rounds of one operation on one server."""

    operation: str
    server: str
    rounds: Sequence[Sample]

    @property
    def rate(self) -> float:
        """The operations a second, the median of the rounds."""
        return median(sample.operations / sample.seconds for sample in self.rounds)

    @property
    def cpu(self) -> float:
        """The CPU seconds of the server for an operation, over all rounds, because the kernel counts in 1/100 s."""
        return sum(sample.server_cpu for sample in self.rounds) / sum(sample.operations for sample in self.rounds)

    @property
    def server_busy(self) -> float:
        """The share of the time in which the server kept a core busy."""
        return sum(sample.server_cpu for sample in self.rounds) / sum(sample.seconds for sample in self.rounds)

    @property
    def load_busy(self) -> float:
        """The share of the time in which the load program was busy; it has to be far below 1."""
        return sum(sample.load_cpu for sample in self.rounds) / sum(sample.seconds for sample in self.rounds)


class Handover(msgspec.Struct, frozen=True):
    """The seconds of handovers from one server to one of this many waiting workers, by round."""

    server: str
    waiters: int
    rounds: Sequence[Sequence[float]]

    @property
    def p50(self) -> float:
        """The median of all handovers in seconds."""
        return median(seconds for each in self.rounds for seconds in each)

    @property
    def p99(self) -> float:
        """The 99th percentile of all handovers in seconds."""
        return quantiles((seconds for each in self.rounds for seconds in each), n=100)[98]


class Verdict(NamedTuple):
    """A ratio and its target."""

    what: str
    ratio: float
    wanted: str
    met: bool


class Report(msgspec.Struct, frozen=True):
    """The figures of a run."""

    conditions: Mapping[str, Any]
    disk: Disk
    throughput: Sequence[Throughput]
    handover: Sequence[Handover]

    def verdicts(self) -> Iterator[Verdict]:
        """Yield the ratios with their targets; a ratio of throughput or latency is the median over the rounds."""
        by_name = {(each.operation, each.server): each for each in self.throughput}
        for operation in (SUBMIT, WORK):
            limit, bare, plain, foreign = (by_name[operation, server] for server in (LIMIT, BARE, COMPOSERD, FOREIGN))
            yield _at_least(0.6, f"{operation}/s, composerd to the bare application", rates(plain, bare))
            yield _at_least(0.5, f"{operation}/s, composerd to the limit", rates(plain, limit))
            yield _at_least(0.5, f"{operation}, CPU of the limit to composerd's", limit.cpu / plain.cpu)
            yield _at_least(0.9, f"{operation}/s, with foreign jobs to without", rates(foreign, plain))
            yield _at_least(0.9, f"{operation}, CPU without foreign jobs to with", plain.cpu / foreign.cpu)
            if (postgres := by_name.get((operation, POSTGRES))) is not None:
                yield Verdict(f"{operation}/s, on PostgreSQL to on fs", rates(postgres, plain), "-", met=True)
            for name in (TOKENS, RS256, ES256):
                if (secured := by_name.get((operation, name))) is not None:
                    credentials = name.removeprefix("composerd, ")
                    yield _at_least(0.93, f"{operation}/s, with {credentials} to without", rates(secured, plain))
                    yield _at_least(0.93, f"{operation}, CPU without to with {credentials}", plain.cpu / secured.cpu)
        few, many = (each for each in self.handover if each.server == COMPOSERD)
        ratio = median(median(a) / median(b) for a, b in zip(many.rounds, few.rounds, strict=True))
        yield Verdict(f"handover p50, {many.waiters:,} waiters to {few.waiters}", ratio, "<= 1.5", ratio <= 1.5)

    def text(self) -> str:
        """Return the tables as text."""
        return "\n".join(self._lines())

    def json(self) -> bytes:
        """Return all figures and samples as JSON."""
        verdicts = [verdict._asdict() for verdict in self.verdicts()]
        return msgspec.json.format(msgspec.json.encode({**msgspec.to_builtins(self), "verdicts": verdicts}))

    def _lines(self) -> Iterator[str]:
        yield "  ".join(f"{name} {value}" for name, value in self.conditions.items())
        yield self.disk.text()
        yield ""
        yield f"{'':56}{'per second':>12}{'CPU an operation':>18}{'server busy':>13}{'load busy':>11}"
        for each in self.throughput:
            yield (
                f"{each.operation:18}{each.server:38}{each.rate:12,.0f}{each.cpu * 1e6:15,.0f} µs"
                f"{each.server_busy:13.0%}{each.load_busy:11.0%}"
            )
        yield ""
        yield f"{'':56}{'p50':>12}{'p99':>18}"
        for latency in self.handover:
            name = f"{latency.server}, {latency.waiters:,} waiters"
            yield f"{'handover':18}{name:38}{_ms(latency.p50):>12}{_ms(latency.p99):>18}"
        yield ""
        yield f"{'':56}{'reached':>12}{'wanted':>18}"
        for verdict in self.verdicts():
            met = "" if verdict.met else "not met"
            yield f"{verdict.what:56}{verdict.ratio:12.2f}{verdict.wanted:>18}   {met}".rstrip()


def _at_least(bound: float, what: str, ratio: float) -> Verdict:
    return Verdict(what, ratio, f">= {bound}", ratio >= bound)


def rates(one: Throughput, other: Throughput) -> float:
    """Return the ratio of the speed of `one` to that of `other`, the median of the ratios of each round."""
    pairs = zip(one.rounds, other.rounds, strict=True)
    return median((a.operations / a.seconds) / (b.operations / b.seconds) for a, b in pairs)


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.2f} ms"
