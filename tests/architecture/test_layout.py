"""The layout: where packages lie and who may touch the import path."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.architecture import rules

MAY_TOUCH_SYS_PATH = {"manage.py", "workers/__init__.py"}


def test_platform_holds_our_packages_and_is_none_itself() -> None:
    assert rules.layout_faults(rules.TOP / "platform") == []


def test_a_package_or_a_stranger_in_platform_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "mailcore").mkdir()
    (tmp_path / "helpers").mkdir()
    (tmp_path / "__init__.py").touch()
    faults = rules.layout_faults(tmp_path)
    assert len(faults) == 2
    assert "platform/__init__.py" in faults[0]
    assert "platform/helpers" in faults[1]


@pytest.mark.parametrize("python_path", ["", ".:platform"])
def test_import_platform_is_the_standard_librarys(python_path: str) -> None:
    code = "import platform, uuid; print(platform.__file__); platform.system(); uuid.uuid4()"
    bare = {"PATH": os.environ["PATH"], "PYTHONPATH": python_path}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=rules.TOP, env=bare, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).parent == Path(os.__file__).parent


def test_a_platform_package_would_break_the_standard_librarys(tmp_path: Path) -> None:
    (tmp_path / "platform").mkdir()
    (tmp_path / "platform" / "__init__.py").touch()
    code = "import platform; platform.system()"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode != 0


def test_every_folder_of_tests_is_a_package() -> None:
    assert rules.folders_without_init(rules.TOP / "tests") == []


def test_a_test_folder_that_is_no_package_is_noticed(tmp_path: Path) -> None:
    inner = tmp_path / "tests" / "io" / "deep"
    inner.mkdir(parents=True)
    (inner / "test_it.py").touch()
    (tmp_path / "tests" / "__init__.py").touch()
    faults = rules.folders_without_init(tmp_path / "tests")
    assert faults == ["tests/io has no __init__.py", "tests/io/deep has no __init__.py"]


def test_only_the_two_entry_points_touch_sys_path() -> None:
    faults = []
    for path in rules.python_files(rules.TOP):
        name = str(path.relative_to(rules.TOP))
        if name not in MAY_TOUCH_SYS_PATH and not name.startswith("tests/"):
            faults += rules.sys_path_faults(path.read_text(encoding="utf-8"), name)
    assert faults == []


def test_a_module_that_touches_sys_path_is_noticed() -> None:
    source = "import sys\nsys.path.append('x')\nprint(sys.platform)\n"
    assert rules.sys_path_faults(source, "a.py") == ["a.py:2 touches sys.path"]
