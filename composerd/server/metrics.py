"""Metrics in Prometheus's format: counted in plain dictionaries on the way of a request, made into families when somebody looks."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric, SummaryMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from composerd.driver import StorageInfo
from composerd.queue import JobQueue


class Metrics:
    """What a server counts of itself."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self, process: int | None = None) -> None:
        """`process` is the number of one of several processes: what it counts of itself has a label that says so."""
        self._process = process
        self._requests: dict[tuple[str, int], int] = {}
        self._calls: dict[str, list[float]] = {}
        """By method of the driver: how many calls, their seconds together, and how many raised."""

    def served(self, handler: Callable[..., Any], status: int) -> None:
        """A request was answered."""
        key = (_operation(handler), status)
        self._requests[key] = self._requests.get(key, 0) + 1

    def called(self, method: str, seconds: float, raised: bool) -> None:
        """A call of the driver has ended."""
        calls = self._calls.get(method)
        if calls is None:
            calls = self._calls[method] = [0, 0.0, 0]
        calls[0] += 1
        calls[1] += seconds
        calls[2] += raised

    async def render(self, queue: JobQueue, connections: int) -> bytes:
        """All of it, as text. Raises what `Driver.info` raises."""
        own = [*ProcessCollector(registry=None).collect(), *self._families(queue, connections)]
        if self._process is not None:
            which = {"process": str(self._process)}
            for family in own:
                family.samples = [sample._replace(labels=sample.labels | which) for sample in family.samples]
        registry = CollectorRegistry()
        registry.register(_Families([*own, _jobs(await queue.driver.info())]))
        return generate_latest(registry)

    def _families(self, queue: JobQueue, connections: int) -> Iterator[Metric]:
        requests = CounterMetricFamily("composerd_requests", "Requests answered.", labels=["operation", "status"])
        for (operation, status), served in sorted(self._requests.items()):
            requests.add_metric([operation, str(status)], served)
        yield requests
        storage = SummaryMetricFamily(
            "composerd_storage_seconds", "Calls of the storage driver, and how long they took.", labels=["method"]
        )
        failed = CounterMetricFamily(
            "composerd_storage_errors", "Calls of the storage driver that failed.", labels=["method"]
        )
        for method, (count, seconds, errors) in sorted(self._calls.items()):
            storage.add_metric([method], int(count), seconds)
            failed.add_metric([method], errors)
        yield storage
        yield failed
        yield GaugeMetricFamily("composerd_waits", "Requests that wait, for a job or for news of one.", queue.waits)
        yield GaugeMetricFamily("composerd_connections", "Open connections.", connections)
        yield GaugeMetricFamily("composerd_held_bytes", "Bytes of bodies in flight.", queue.budget.used)


def _jobs(info: StorageInfo) -> Metric:
    jobs = GaugeMetricFamily("composerd_jobs", "Jobs in the storage.", labels=["state"])
    for state, number in sorted(info.jobs.items()):
        jobs.add_metric([state], number)
    return jobs


class _Families(Collector):
    def __init__(self, families: Sequence[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        return iter(self._families)


def _operation(handler: Any) -> str:
    """The operation's name in the OpenAPI document; empty for what belongs to neither API."""
    documented: dict[str, Any] = getattr(handler, "__apispec__", {})
    return str(documented.get("operationId", ""))
