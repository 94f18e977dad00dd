"""The metrics in Prometheus's format, counted in plain dictionaries and converted when they are scraped."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric, SummaryMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from composerd.driver import StorageInfo
from composerd.errors import ComposerdError
from composerd.http.openapi import ENDPOINT_NAMES
from composerd.queue import JobQueue
from composerd.quotas import Quotas
from composerd.version import VERSION

STORAGE_WITHIN = 2.0
"""Time in seconds that the storage may take to answer when the metrics are read."""


class Metrics:
    """The metrics of one server process.

    Counting is a few operations on a dictionary, because it is part of every request; the objects of prometheus_client
    are made when the metrics are read.
    """

    content_type = CONTENT_TYPE_LATEST

    def __init__(self, process: int | None = None) -> None:
        """Start counting. The metrics of one of several processes get a label with its number, `process`."""
        self._process = process
        self._requests: dict[tuple[str, int], int] = {}
        self._calls: dict[str, list[float]] = {}
        """By method of the driver: the number of calls, their total duration in seconds, the number that failed."""

    def served(self, handler: Callable[..., Any], status: int) -> None:
        """Count an answered request."""
        key = (ENDPOINT_NAMES.get(handler, ""), status)
        self._requests[key] = self._requests.get(key, 0) + 1

    def called(self, method: str, seconds: float, raised: bool) -> None:
        """Count a call of the driver that has ended."""
        calls = self._calls.get(method)
        if calls is None:
            calls = self._calls[method] = [0, 0.0, 0]
        calls[0] += 1
        calls[1] += seconds
        calls[2] += raised

    async def render(self, queue: JobQueue, connections: int) -> bytes:
        """Return the metrics as text, without those of the storage if it does not answer in time."""
        own = [*ProcessCollector(registry=None).collect(), *self._families(queue, connections)]  # all of one moment
        info = await _info(queue)
        own.append(
            GaugeMetricFamily(
                "composerd_storage_up",
                "1 if the storage has answered when the metrics were read, 0 if not.",
                info is not None,
            )
        )
        if self._process is not None:
            process_label = {"process": str(self._process)}
            for family in own:
                family.samples = [sample._replace(labels=sample.labels | process_label) for sample in family.samples]
        registry = CollectorRegistry()
        registry.register(_Families(own if info is None else [*own, _jobs(info)]))
        return generate_latest(registry)

    def _families(self, queue: JobQueue, connections: int) -> Iterator[Metric]:
        version = GaugeMetricFamily("composerd_build_info", "Always 1; the version is a label.", labels=["version"])
        version.add_metric([VERSION], 1)
        yield version
        yield self._request_family()
        yield from self._storage_families()
        yield GaugeMetricFamily(
            "composerd_waits", "Number of requests that are waiting, for a job or for a change of one.", queue.waits
        )
        yield GaugeMetricFamily(
            "composerd_oldest_write_seconds",
            "Age of the oldest write or claim that the storage has not answered.",
            queue.oldest_write,
        )
        yield CounterMetricFamily(
            "composerd_unanswered_handovers",
            "Jobs that were handed over and that no worker has called about.",
            queue.handovers.unanswered,
        )
        yield GaugeMetricFamily("composerd_connections", "Number of open connections.", connections)
        held = GaugeMetricFamily(
            "composerd_held_bytes", "Bytes of request bodies and answers that are in memory.", labels=["account"]
        )
        for account, used in queue.budgets.used().items():
            held.add_metric([account], used)
        yield held
        if queue.quotas is not None:
            yield self._quota_family(queue.quotas)

    @staticmethod
    def _quota_family(quotas: Quotas) -> Metric:
        refused = CounterMetricFamily(
            "composerd_quota_refusals", "Requests that were refused because of a quota.", labels=["quota"]
        )
        for quota, count in quotas.refused.items():
            refused.add_metric([quota.value], count)
        return refused

    def _request_family(self) -> Metric:
        requests = CounterMetricFamily(
            "composerd_requests", "Answered requests by endpoint and status.", labels=["operation", "status"]
        )
        for (endpoint, status), served in sorted(self._requests.items()):
            requests.add_metric([endpoint, str(status)], served)
        return requests

    def _storage_families(self) -> tuple[Metric, Metric]:
        durations = SummaryMetricFamily(
            "composerd_storage_seconds",
            "Number and total duration of the calls of the storage driver.",
            labels=["method"],
        )
        failures = CounterMetricFamily(
            "composerd_storage_errors", "Number of calls of the storage driver that failed.", labels=["method"]
        )
        for method, (count, seconds, errors) in sorted(self._calls.items()):
            durations.add_metric([method], int(count), seconds)
            failures.add_metric([method], errors)
        return durations, failures


async def _info(queue: JobQueue) -> StorageInfo | None:
    try:
        async with asyncio.timeout(STORAGE_WITHIN):
            return await queue.driver.info()
    except (ComposerdError, TimeoutError):
        return None


def _jobs(info: StorageInfo) -> Metric:
    jobs = GaugeMetricFamily("composerd_jobs", "Number of jobs in the storage by state.", labels=["state"])
    for state, number in sorted(info.jobs.items()):
        jobs.add_metric([state], number)
    return jobs


class _Families(Collector):
    def __init__(self, families: Sequence[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        return iter(self._families)
