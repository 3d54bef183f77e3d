"""What happens when a service cannot be had, and that those asked for start once, side by side."""

from __future__ import annotations

import threading

import pytest

from tests.support.services.base import MissingService, require
from tests.support.services.demand import Demand

TWO = threading.Barrier(2)


class Sample:
    """A service that is ready once another starts beside it."""

    version = "1"

    def __init__(self, name: str) -> None:
        self.name = name
        self.starts = 0
        self.kills = 0

    def start(self) -> None:
        self.starts += 1
        TWO.wait(timeout=10)

    def kill(self) -> None:
        self.kills += 1


def test_a_missing_command_names_its_package() -> None:
    with pytest.raises(MissingService, match="no-such-package is not installed"):
        require("no-such-command", "no-such-package")


def test_services_start_side_by_side_once_and_are_ended() -> None:
    samples = {name: Sample(name) for name in ("one", "other")}
    demand = Demand({name: lambda get, name=name: samples[name] for name in samples})  # type: ignore[misc]
    demand.begin(samples)
    for name in (*samples, *samples):
        assert demand.get(name) is samples[name]
    demand.stop()
    demand.stop()
    assert [(one.starts, one.kills) for one in samples.values()] == [(1, 1), (1, 1)]


def test_a_service_that_cannot_be_had_says_so_each_time_and_stops_no_other() -> None:
    def missing(get: object) -> Sample:
        raise MissingService("nothing is installed")

    demand = Demand({"none": missing})
    for _ in range(2):
        with pytest.raises(MissingService, match="nothing is installed"):
            demand.get("none")
    demand.stop()
