"""The verbs of `manage.py fleet` for a fleet on services of its own: up, status, start, stop,
restart, exec.

Gives    add_verbs(), VERBS, run()
Takes    what the command line says; the environment; an event that is set when it should end
Raises   FleetError; the reasons stand in the lines before it
Follows  design.md section 7; docs/operate/fleet.md

status, start, stop and restart serve `make run` as well: a fleet is a fleet.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from argparse import ArgumentParser
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import psycopg2

from control.management.fleet import doctor
from control.management.fleet.desk import ask
from control.management.fleet.envfile import joined
from control.management.fleet.house import TOP, FleetError, House, check_unused
from control.management.fleet.launch import Fleet, Form
from control.management.fleet.overview import read_overview
from control.management.fleet.processes import FLOWER_USER, names_of, specs_of, usual_names
from control.management.fleet.survey import listen_of, survey
from mailcore.ports import StoreUnavailable
from mailio.settings import SettingsError, load, parse_key_ring
from mailio.snapshots import SnapshotStore
from mailio.vault import KeyRing, sealed_otherwise

ORDERS = ("start", "stop", "restart")
VERBS = ("up", "status", *ORDERS, "exec")
_DONE = {"start": "runs", "stop": "is stopped until it is started", "restart": "runs again"}
MODES = ("lab", "live")
NOT_PREPARED = (
    "Start once with --migrate, which brings the database to this release, or run "
    "manage.py migrate and manage.py seed yourself"
)

Say = Callable[[str], None]


def add_verbs(verbs: Any) -> None:
    """Declare them."""
    up = verbs.add_parser("up", help="start this node's processes on services of your own, stay")
    _common(up)
    up.add_argument("--mode", choices=MODES, default="", help="instead of MODE")
    up.add_argument("--node", default="", help="instead of NODE")
    up.add_argument(
        "--processes", default="", help="such as web,priority,delivery*4 (default: all of a node)"
    )
    up.add_argument(
        "--migrate", action="store_true", help="bring the database to this release first"
    )
    up.add_argument("--probe", default="", help="live: first look whether mail can leave")
    status = verbs.add_parser("status", help="show the processes of the fleet that runs here")
    _common(status)
    for verb, words in zip(ORDERS, ("start again", "stop and keep down", "restart"), strict=True):
        order = verbs.add_parser(verb, help=f"{words} a process of the fleet that runs here")
        _common(order)
        order.add_argument("name", help="as status shows it, such as delivery1")
    execute = verbs.add_parser("exec", help="become one process, for a supervisor of your own")
    _common(execute)
    execute.add_argument("name", help="web, priority, delivery1, event, upkeep, control, beat …")


def _common(parser: ArgumentParser) -> None:
    parser.add_argument("--env-file", type=Path, default=None, help="a file of NAME=value lines")
    parser.add_argument("--var", type=Path, default=None, help="directory of all data (VAR_DIR)")


def run(options: Mapping[str, Any], *, say: Say, asked: threading.Event) -> int:
    """Carry out a verb; return the exit code."""
    environ = joined(os.environ, options["env_file"])
    if options["var"] is not None:
        environ["VAR_DIR"] = str(options["var"].absolute())
    verb = options["verb"]
    if verb == "up":
        for name in ("mode", "node"):
            environ[name.upper()] = options[name] or environ.get(name.upper(), "")
        _up(environ, options, say=say, asked=asked)
    elif verb == "status":
        return _status(environ, say=say)
    elif verb == "exec":
        _become(options["name"], environ)
    else:
        ask(_directory(environ), verb, name=options["name"])
        say(f"{options['name']} {_DONE[verb]}")
    return 0


# ── up ────────────────────────────────────────────────────────────────────────────────────────


def _up(
    environ: dict[str, str], options: Mapping[str, Any], *, say: Say, asked: threading.Event
) -> None:
    mode = environ["MODE"]
    environ.setdefault("VAR_DIR", str(TOP / "var" / mode) if mode in MODES else "")
    names = names_of(options["processes"]) if options["processes"] else usual_names(mode, environ)
    findings = survey(environ, names)
    for finding in findings:
        say(str(finding))
    wrong = [one.variable for one in findings if not one.is_good]
    if wrong:
        check_unused(Path(environ["VAR_DIR"] or "."))
        raise FleetError(f"nothing was started; wrong: {', '.join(wrong)}")
    _check_lab(environ, names)
    if mode == "live" and options["probe"] not in ("", doctor.UNCHECKED):
        for line in doctor.check(options["probe"], environ).lines():
            say(line)
    web, flower = listen_of(environ)
    house = House(Path(environ["VAR_DIR"]), mode, environ=environ)
    is_new = _is_new(environ["DATABASE_URL"])
    if not options["migrate"]:
        _check_prepared(house, is_new=is_new)
    if not is_new:
        _check_keys(environ)
    form = Form(names, web, flower, migrates=options["migrate"], is_new=is_new)
    say(f"node {environ['NODE'] or '(this host)'}, mode {mode}: starting {', '.join(names)}")
    with Fleet(house, say=say, form=form, asked=asked) as fleet:
        for line in _where(fleet, house, names):
            say(line)
        asked.wait()
        say("stopping")
    say("stopped")


def _where(fleet: Fleet, house: House, names: tuple[str, ...]) -> list[str]:
    lines = []
    if "web" in names:
        lines += [f"panel   {fleet.addresses.panel}", f"API     {fleet.addresses.api}"]
    if "flower" in names:
        drawn = f"user {FLOWER_USER}, FLOWER_PASSWORD in {house.var_dir / 'secrets.env'}"
        people = "FLOWER_BASIC_AUTH" if house.environ.get("FLOWER_BASIC_AUTH") else drawn
        lines.append(f"Flower  {fleet.addresses.flower} ({people})")
    return [*lines, f"logs in {house.var_dir / 'log'}; Ctrl-C or SIGTERM stops everything"]


def _check_lab(environ: Mapping[str, str], names: tuple[str, ...]) -> None:
    if environ["MODE"] == "live" and "lab" in names:
        raise FleetError("--processes: there is no lab in mode live")
    has_lab = environ.get("DNS_RESOLVER") and environ.get("SMTP_PORT")
    if environ["MODE"] == "lab" and "lab" not in names and not has_lab:
        raise FleetError(
            "--processes: mode lab needs the lab, here or, by DNS_RESOLVER and SMTP_PORT, one "
            "that runs already"
        )


def _is_new(database_url: str) -> bool:
    """Whether no installation has ever used this database."""
    connection: Any = psycopg2.connect(database_url, connect_timeout=5)
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT to_regclass('django_migrations') IS NULL")
            return bool(cursor.fetchone()[0])
    finally:
        connection.close()


def _check_prepared(house: House, *, is_new: bool) -> None:
    """Refuse a database that is not of this release, naming what it lacks."""
    if is_new:
        raise FleetError(f"DATABASE_URL: the database is empty. {NOT_PREPARED}")
    done = subprocess.run(
        [sys.executable, "manage.py", "showmigrations", "--plan"],
        cwd=TOP,
        env=house.environment({}),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise FleetError(f"manage.py showmigrations failed:\n{done.stderr.strip()[-2000:]}")
    lacking = [line[3:].split()[0] for line in done.stdout.splitlines() if line.startswith("[ ]")]
    if lacking:
        shown = ", ".join(lacking[:5]) + (" …" if len(lacking) > 5 else "")
        raise FleetError(
            f"DATABASE_URL: the database lacks {len(lacking)} migrations ({shown}). {NOT_PREPARED}"
        )
    store = SnapshotStore(house.environ["DATABASE_URL"])
    try:
        if store.active_number() is None:
            raise FleetError(f"DATABASE_URL: no policy was ever published. {NOT_PREPARED}")
    except StoreUnavailable as exc:
        raise FleetError(f"DATABASE_URL: {exc.reason}") from exc
    finally:
        store.close()


def _check_keys(environ: Mapping[str, str]) -> None:
    """Refuse a key ring that does not open what is stored: each delivery would fail by itself."""
    ring = KeyRing(parse_key_ring(environ["SECRET_KEYS"]))
    connection: Any = psycopg2.connect(environ["DATABASE_URL"], connect_timeout=5)
    try:
        with connection.cursor() as cursor:
            unopened = sealed_otherwise(cursor, ring)
    finally:
        connection.close()
    if unopened:
        raise FleetError(
            f"SECRET_KEYS: {len(unopened)} stored secrets do not open ({unopened[0]}). "
            "Bring back the keys they were sealed with; a new key is added to the old ones"
        )


# ── a fleet that runs ─────────────────────────────────────────────────────────────────────────


def _status(environ: Mapping[str, str], *, say: Say) -> int:
    overview = read_overview(ask(_directory(environ), "status")["overview"])
    for line in overview.lines():
        say(line)
    return 0 if overview.is_good else 3


def _directory(environ: Mapping[str, str]) -> Path:
    """Return where the fleet is: where VAR_DIR or MODE say, else where one of either mode is up."""
    if environ.get("VAR_DIR"):
        return Path(environ["VAR_DIR"])
    wanted = [environ["MODE"]] if environ.get("MODE") else list(reversed(MODES))
    places = [TOP / "var" / mode for mode in wanted]
    for place in places:
        try:
            ask(place, "status")
        except FleetError:
            continue
        return place
    shown = " or ".join(str(place) for place in places)
    raise FleetError(f"no fleet is up in {shown}; --var names another directory")


# ── one process ───────────────────────────────────────────────────────────────────────────────


def _become(name: str, environ: dict[str, str]) -> NoReturn:
    """Replace this process by one of the fleet, so that signals reach it."""
    (named, *others) = names_of(name)
    if others or named == "lab":
        raise FleetError(f"exec starts one process, and not the lab: {name!r}")
    mode = environ.get("MODE", "")
    if mode not in MODES:
        raise FleetError(f"MODE: {mode!r} is neither lab nor live" if mode else "MODE is not set")
    environ.setdefault("VAR_DIR", str(TOP / "var" / mode))
    try:
        load(environ)
    except SettingsError as exc:
        raise FleetError(str(exc)) from exc
    if named == "flower" and not environ.get("FLOWER_BASIC_AUTH"):
        raise FleetError("FLOWER_BASIC_AUTH is not set: user:password of who may look")
    web, flower = listen_of(environ)
    house = House(Path(environ["VAR_DIR"]), mode, environ=environ)
    (house.var_dir / "run").mkdir(mode=0o700, exist_ok=True)
    common = house.environment(house.public_url(web.url))
    (spec,) = specs_of([named], common, web=web, flower=flower)
    os.chdir(TOP)
    os.execve(spec.command[0], spec.command, spec.environment(common))  # noqa: S606
