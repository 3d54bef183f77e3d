"""The import contracts of setup.cfg on a skeleton of the tree: whole, then broken on purpose.

A contract that nothing can break protects nothing; each one here is shown to break.
"""

import configparser
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.architecture import rules

LINT = "import sys; from importlinter.cli import lint_imports_command as run; sys.exit(run())"

# Every module the contracts name, with the imports that are allowed and look as if they were not.
SKELETON = {
    "mailcore/errors.py": "",
    "mailcore/address.py": "import idna\nfrom mailcore import errors\n",
    "mailcore/reply.py": "",
    "mailcore/outcome.py": "from mailcore import address, reply\n",
    "mailcore/envelope.py": "from mailcore import outcome\n",
    "mailcore/policy/__init__.py": "from mailcore import envelope\n",
    "mailcore/bells.py": "from mailcore import policy\n",
    "mailcore/events.py": "",
    "mailcore/routing/__init__.py": "from mailcore import events\n",
    "mailcore/dkim.py": "import cryptography\n",
    "mailcore/render.py": "import jinja2\n",
    "mailcore/submission.py": "from mailcore import routing\n",
    "mailcore/ports.py": "from mailcore import submission\n",
    "mailio/broker.py": "import celery\nimport kombu\nfrom mailcore import bells\n",
    "mailio/dns.py": "import dns\n",
    "control/settings.py": "import django\n",
    "control/senders/models.py": "import mailio.broker\n",
    "control/senders/management/commands/fleet.py": "import embedded.stack\nimport lab.world\n",
    "control/domains/models.py": "import control.senders.models\n",
    "embedded/stack.py": "",
    "lab/world.py": "import embedded.stack\n",
    "workers/app.py": "import celery\nimport workers.runtime\n",
    "workers/runtime.py": "import mailio.dns\nfrom workers import policy_cache, writeback\n",
    "workers/policy_cache.py": "import workers.engines.drain\n",
    "workers/writeback.py": "import control.senders.models\n",
    "workers/engines/drain.py": "import mailcore.ports\n",
    "workers/tasks/deliver.py": "import workers.app\n",
}


def lay_out(top: Path, files: dict[str, str]) -> None:
    """Write the modules, and an __init__.py wherever there is none."""
    for name, source in files.items():
        path = top / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source, encoding="utf-8")
        for folder in path.relative_to(top).parents:
            if folder != Path() and not (top / folder / "__init__.py").exists():
                (top / folder / "__init__.py").touch()


def broken_contracts(top: Path) -> set[str]:
    """Run the contracts of setup.cfg on a tree; return the first words of those broken."""
    config = rules.TOP / "setup.cfg"
    done = subprocess.run(
        [sys.executable, "-c", LINT, "--config", str(config), "--no-cache"],
        cwd=top,
        env={**os.environ, "PYTHONPATH": ".", "NO_COLOR": "1", "COLUMNS": "200"},
        capture_output=True,
        text=True,
    )
    lines = done.stdout.splitlines()
    broken = {line.split(":")[0] for line in lines if "BROKEN" in line}
    assert "Contracts: " in done.stdout, done.stdout + done.stderr
    assert done.returncode == (1 if broken else 0)
    return broken


def test_the_contracts_hold_on_a_whole_skeleton(tmp_path: Path) -> None:
    lay_out(tmp_path, SKELETON)
    assert broken_contracts(tmp_path) == set()


@pytest.mark.parametrize(
    ("module", "source", "contract"),
    [
        ("mailio/dns.py", "import control.settings\n", "Planes"),
        ("control/settings.py", "import workers.app\n", "Planes"),
        ("mailcore/reply.py", "import mailio.dns\n", "Planes"),
        ("workers/runtime.py", "import control.settings\n", "Planes"),
        ("mailcore/reply.py", "import time\n", "Pure"),
        ("mailcore/routing/site.py", "import logging\n", "Pure"),
        ("mailcore/reply.py", "import cryptography\n", "Pure"),
        ("mailio/dns.py", "import django\n", "Adapters"),
        ("mailio/dns.py", "import celery\n", "Adapters"),
        ("workers/engines/drain.py", "import mailio.dns\n", "Engines"),
        ("workers/engines/drain.py", "import kombu\n", "Engines"),
        ("workers/engines/drain.py", "import workers.runtime\n", "Workers"),
        ("workers/stray.py", "", "Workers"),
        ("mailcore/errors.py", "import mailcore.reply\n", "Core"),
        ("mailcore/bells.py", "import mailcore.events\n", "Core"),
        ("mailcore/stray.py", "", "Core"),
        ("workers/app.py", "import lab.world\n", "Scaffolding"),
        ("control/senders/models.py", "import embedded.stack\n", "Scaffolding"),
        ("control/senders/models.py", "import control.domains.models\n", "Acyclic"),
    ],
)
def test_a_planted_violation_breaks_its_contract(
    tmp_path: Path, module: str, source: str, contract: str
) -> None:
    lay_out(tmp_path, {**SKELETON, module: source})
    assert contract in broken_contracts(tmp_path)


def test_every_package_of_the_tree_is_under_contract() -> None:
    config = configparser.ConfigParser()
    config.read(rules.TOP / "setup.cfg", encoding="utf-8")
    roots = set(config["importlinter"]["root_packages"].split())
    present = {path.parent.name for path in (rules.TOP / "platform").glob("*/__init__.py")}
    assert present <= roots
    assert "workers" in roots
