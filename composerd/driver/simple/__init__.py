"""For stores that know nothing of jobs: `SimpleDriver` implements the contract over a `Shelf`, which stores records."""

from composerd.driver.simple.driver import SimpleDriver
from composerd.driver.simple.records import JobRecord
from composerd.driver.simple.shelf import Shelf

__all__ = ["JobRecord", "Shelf", "SimpleDriver"]
