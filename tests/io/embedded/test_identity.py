"""As whom the stack runs: root with and without user namespaces, and an ordinary user."""

import os
import pwd
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from embedded.binaries import postgres_bin
from embedded.identity import NAMESPACE, choose_identity, has_namespaces
from embedded.postgres import Postgres, answers
from embedded.procs import free_port
from embedded.rundir import RunDir
from embedded.supervise import Supervisor
from tests.io.embedded.world import bare_environment, holding, open_directory, query

NOBODY = pwd.getpwnam("nobody")
AS_NOBODY = ("setpriv", f"--reuid={NOBODY.pw_uid}", f"--regid={NOBODY.pw_gid}", "--clear-groups")

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


def run_once(data_in: Path, system_home: Path, *, allow_namespace: bool, sql: str) -> str:
    """Make or take over the cluster of a directory, run one statement, return its answer."""
    run_dir = RunDir(data_in)
    run_dir.create()
    identity = choose_identity(
        postgres_bin(), allow_namespace=allow_namespace, system_home=system_home
    )
    server = Postgres(run_dir, identity, durable=False)
    server.create(bare_environment())
    port = free_port()
    supervisor = Supervisor(run_dir.log)
    supervisor.add_child(server.child(port, bare_environment(), ready_timeout_s=20))
    try:
        supervisor.start()
        owner = os.stat(f"/proc/{supervisor.pids()['postgres']}").st_uid
        assert owner == (os.geteuid() if identity.uid is None else identity.uid)
        assert answers(port)
        return str(query(server.url(port), sql))
    finally:
        supervisor.stop()


@as_root
def test_root_under_a_closed_home_keeps_its_files(tmp_path: Path) -> None:
    if not has_namespaces():
        pytest.skip("user namespaces are refused on this machine")
    home = tmp_path / "closed home"
    home.mkdir(mode=0o700)
    identity = choose_identity(postgres_bin())
    assert identity.prefix == NAMESPACE
    assert run_once(home, tmp_path / "system", allow_namespace=True, sql="SELECT 1") == "1"
    assert (home / "postgres").stat().st_uid == 0
    assert not (tmp_path / "system").exists()


@as_root
def test_root_without_namespaces_runs_a_copy_as_nobody(tmp_path: Path) -> None:
    home = tmp_path / "closed home"
    home.mkdir(mode=0o700)
    with open_directory() as system:
        answer = run_once(home, system, allow_namespace=False, sql="SELECT current_user")
        assert answer == "postfleet"
        clusters = list(system.glob("*/postgres/PG_VERSION"))
        assert [path.stat().st_uid for path in clusters] == [NOBODY.pw_uid]


@as_root
def test_data_follows_when_namespaces_are_refused_later_and_allowed_again(tmp_path: Path) -> None:
    if not has_namespaces():
        pytest.skip("user namespaces are refused on this machine")
    with open_directory() as system:
        make = "CREATE TABLE kept AS SELECT 1 AS n; SELECT n FROM kept"
        assert run_once(tmp_path, system, allow_namespace=True, sql=make) == "1"
        for allowed in (False, True, False):
            n = run_once(tmp_path, system, allow_namespace=allowed, sql="SELECT n FROM kept")
            assert n == "1"


@as_root
def test_an_ordinary_user_runs_the_whole_stack() -> None:
    if shutil.which("setpriv") is None:
        pytest.skip("setpriv is not installed")
    with open_directory() as directory:
        var = directory / "a place"
        var.mkdir()
        os.chown(var, NOBODY.pw_uid, NOBODY.pw_gid)
        probe = [*AS_NOBODY, sys.executable, "-c", "import psycopg2"]
        if subprocess.run(probe, capture_output=True, check=False).returncode != 0:
            pytest.skip("nobody cannot reach this checkout's Python")
        with holding(var, ["postgres", "valkey", "chdb"], AS_NOBODY, HOME=str(var)) as holder:
            told = holder.read()
            assert query(told["urls"]["DATABASE_URL"], "SELECT 1") == 1
            owners = {os.stat(f"/proc/{pid}").st_uid for pid in told["pids"].values()}
            assert owners == {NOBODY.pw_uid}


@pytest.mark.skipif(os.geteuid() == 0, reason="this is about an ordinary user")
def test_an_ordinary_user_runs_the_programs_as_they_are() -> None:
    identity = choose_identity(postgres_bin())
    assert (identity.prefix, identity.uid) == ((), None)
