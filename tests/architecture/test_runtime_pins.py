"""What the product imports is in requirements.txt, not merely on the developer's machine."""

import re
import subprocess
import sys
from importlib import metadata

from tests.architecture import rules
from tests.architecture.test_house import pins

# The processes' own modules, and what their libraries load only once a broker's URL is known.
LOADED = (
    "workers.app workers.runtime control.wsgi gunicorn.app.wsgiapp flower.command "
    "celery.apps.worker celery.apps.beat celery.concurrency.thread celery.backends.redis "
    "kombu.transport.redis kombu.transport.pyamqp lab.__main__ embedded.stack"
)
# Taken where it happens to be there, done without where it is not.
OPTIONAL = {"greenlet", "pygments", "_distutils_hack"}
SHOW_FILES = """
import importlib, sys
for name in sys.argv[1].split():
    importlib.import_module(name)
for module in list(sys.modules.values()):
    print(getattr(module, "__file__", None) or "")
"""


def normal(name: str) -> str:
    """Return a distribution's name as package indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def test_all_that_the_processes_import_is_pinned_for_the_runtime() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SHOW_FILES, LOADED],
        cwd=rules.TOP,
        env={"PYTHONPATH": ".:platform", "DJANGO_SETTINGS_MODULE": "control.settings_test"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    loaded = {
        file.split("/site-packages/", 1)[1].split("/", 1)[0].removesuffix(".py").split(".")[0]
        for file in done.stdout.splitlines()
        if "/site-packages/" in file
    }
    owners = metadata.packages_distributions()
    pinned = {normal(pin.partition("==")[0]) for pin in pins("requirements.txt")}
    missing = {
        name: owners[name]
        for name in loaded - OPTIONAL
        if name in owners and not pinned & {normal(one) for one in owners[name]}
    }
    assert loaded >= {"kombu", "celery", "django", "redis"}
    assert not missing
