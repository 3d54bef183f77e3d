"""One fleet for the whole suite: real stores, web server, workers and lab, in a directory of its
own; and one campaign through it that several tests look at."""

from collections.abc import Iterator

import pytest

from tests.support.fleet import Load, Running, eventually, starting

CAMPAIGN = 300
# For the start of the fleet and a campaign on a machine that others use too.
TIMEOUT_S = 480


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give each test the time a fleet takes; tests that kill come last, for they leave rows whose
    outcome is unknown."""
    ours = [item for item in items if item.nodeid.startswith("tests/e2e/")]
    for item in ours:
        item.add_marker(pytest.mark.timeout(TIMEOUT_S), append=False)
    items.sort(key=lambda item: item.get_closest_marker("kill") is not None)


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """The fleet."""
    with starting(tmp_path_factory.mktemp("fleet")) as running:
        yield running


@pytest.fixture(scope="session")
def campaign(running: Running) -> Load:
    """A campaign that went through: nothing of it is queued, and every event is applied."""
    *_, load = running.load(CAMPAIGN)
    assert load.accepted == CAMPAIGN
    eventually(lambda: running.queued(load.campaign) == 0, within_s=120)
    running.wait_applied()
    return load
