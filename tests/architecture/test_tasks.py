"""The task table: a task only rings the bell, and the topology knows each one."""

import importlib
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest

from tests.architecture import rules

TASKS = rules.TOP / "workers" / "tasks"
BROKER = rules.TOP / "platform" / "mailio" / "broker.py"

SOUND = '''
@app.task(name="deliver.drain", acks_late=True)
def drain(payload: str) -> None:
    """Drain the paths of a bell."""
    engine().start(payload).wait(timeout=5)
'''


def modules_of(folder: Path) -> list[tuple[str, str]]:
    """Return (name, source) of the modules below a folder."""
    paths = rules.files_below(folder, frozenset({".py"})) if folder.is_dir() else ()
    return [(str(path.relative_to(rules.TOP)), path.read_text(encoding="utf-8")) for path in paths]


def topology_task_names() -> list[str]:
    """Return the task of each row of TOPOLOGY, whose rows name it in `task`."""
    topology = importlib.import_module("mailio.broker").TOPOLOGY
    rows: Iterable[object] = topology.values() if isinstance(topology, Mapping) else topology
    return [str(row.task) for row in rows]  # type: ignore[attr-defined]


def test_every_task_is_named_acknowledges_late_and_is_short() -> None:
    modules = modules_of(TASKS)
    assert [name for _, source in modules for name in rules.task_names(source)]
    assert [fault for name, source in modules for fault in rules.task_faults(source, name)] == []


def test_every_task_has_exactly_one_row_in_the_topology() -> None:
    tasks = [name for _, source in modules_of(TASKS) for name in rules.task_names(source)]
    assert tasks
    assert rules.topology_faults(tasks, topology_task_names()) == []


def test_tasks_live_in_workers_tasks_alone() -> None:
    elsewhere = [
        f"{path.relative_to(rules.TOP)} defines {name}"
        for folder in ("platform", "workers")
        if (rules.TOP / folder).is_dir()
        for path in rules.files_below(rules.TOP / folder, frozenset({".py"}))
        if TASKS not in path.parents
        for name in rules.task_names(path.read_text(encoding="utf-8"))
    ]
    assert elsewhere == []


def test_nothing_delays_a_task() -> None:
    modules = modules_of(rules.TOP / "workers")
    if BROKER.is_file():
        modules.append(("platform/mailio/broker.py", BROKER.read_text(encoding="utf-8")))
    assert [fault for name, source in modules for fault in rules.delay_faults(source, name)] == []


def test_a_sound_task_draws_no_complaint() -> None:
    assert rules.task_names(SOUND) == ["deliver.drain"]
    assert rules.task_faults(SOUND, "a.py") == []
    assert rules.delay_faults(SOUND, "a.py") == []


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ('name="deliver.drain", ', "", "no explicit name"),
        ('"deliver.drain"', "NAME", "no explicit name"),
        (", acks_late=True", "", "no acks_late=True"),
        ("acks_late=True", "acks_late=False", "no acks_late=True"),
        ('@app.task(name="deliver.drain", acks_late=True)', "@app.task", "no explicit name"),
        ('@app.task(name="deliver.drain", acks_late=True)', "@shared_task", "no acks_late=True"),
        ("engine()", "a = 1; b = 2; c = 3; d = 4; e = 5; engine()", "6 statements"),
        ("engine()", "\n    if a:\n        b; c; d; e\n    engine()", "6 statements"),
    ],
)
def test_a_task_that_breaks_a_rule_is_noticed(old: str, new: str, complaint: str) -> None:
    assert old in SOUND
    faults = rules.task_faults(SOUND.replace(old, new), "a.py")
    assert any(complaint in fault for fault in faults), faults


def test_a_task_class_is_noticed() -> None:
    faults = rules.task_faults("class Drain(celery.Task):\n    name = 'deliver.drain'\n", "a.py")
    assert faults == ["a.py:1 Drain: a task is a function, not a class"]


@pytest.mark.parametrize(
    "call",
    ["drain.apply_async(countdown=5)", "app.send_task('x.y', eta=due)", "self.retry()"],
)
def test_a_delayed_task_is_noticed(call: str) -> None:
    assert len(rules.delay_faults(call, "a.py")) == 1


def test_a_task_without_a_row_or_with_two_and_a_row_without_a_task_are_noticed() -> None:
    tasks = ["route.resolve", "deliver.drain", "deliver.drain"]
    rows = ["deliver.drain", "events.apply", "deliver.drain"]
    assert rules.topology_faults(tasks, rows) == [
        "TOPOLOGY names events.apply, which is no task",
        "task deliver.drain has 2 rows in TOPOLOGY, not one",
        "task deliver.drain is defined 2 times",
        "task route.resolve has 0 rows in TOPOLOGY, not one",
    ]
