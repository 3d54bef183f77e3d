"""A fleet on services of its own: how it is asked for, what is refused, how it is shown."""

import base64
import socket
import threading
from pathlib import Path

import pytest

from control.management.fleet.desk import Desk, ask
from control.management.fleet.envfile import joined, read_env_file
from control.management.fleet.house import FleetError, House, check_unused
from control.management.fleet.overview import Overview, ProcessLine, fields_of, read_overview
from control.management.fleet.own import run
from control.management.fleet.processes import Listen, names_of, specs_of, usual_names
from control.management.fleet.survey import survey
from embedded.child import ChildState

SECRET = "hunter2%40x"
KEYS = f"1:{base64.b64encode(bytes(32)).decode()}"
LISTEN = Listen("127.0.0.1", 1)


# ── processes ─────────────────────────────────────────────────────────────────────────────────


def test_a_list_of_processes_is_read_in_the_order_they_start() -> None:
    assert names_of("event, delivery*2,web") == ("web", "delivery1", "delivery2", "event")
    assert names_of("delivery3") == ("delivery3",)
    assert names_of("delivery") == ("delivery1",)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "names none"),
        ("gardener", "no process 'gardener'; there are lab, web"),
        ("web*2", "one web process at most"),
        ("delivery*0", "from 1 to 64"),
        ("delivery*65", "from 1 to 64"),
        ("delivery1,delivery*2", "delivery1 twice"),
        ("delivery*x", "no process"),
    ],
)
def test_a_list_of_processes_that_is_none_is_refused(text: str, reason: str) -> None:
    with pytest.raises(FleetError, match=reason.replace("*", r"\*")):
        names_of(text)


def test_a_node_runs_one_delivery_process_for_each_core_and_a_lab_in_mode_lab_alone() -> None:
    lab = usual_names("lab", {}, cores=3)
    assert lab[:2] == ("lab", "web")
    assert sum(name.startswith("delivery") for name in lab) == 3
    assert usual_names("live", {}, cores=3) == lab[1:]


def test_a_node_takes_mail_by_smtp_only_where_it_is_told_to_listen() -> None:
    names = usual_names("live", {"SMTPD_LISTEN": "127.0.0.1:587"}, cores=1)
    assert "smtpd" in names
    assert "smtpd" in usual_names("live", {"SMTPD_TLS_LISTEN": "127.0.0.1:465"}, cores=1)
    assert "smtpd" not in usual_names("live", {"SMTPD_LISTEN": ""}, cores=1)
    (spec,) = specs_of(["smtpd"], {"VAR_DIR": "/var"}, web=LISTEN, flower=LISTEN)
    assert spec.command[1:] == ["-m", "workers.smtpd"]
    assert spec.ready_file is not None


def test_who_stops_a_process_waits_longer_than_it_may_take() -> None:
    def stop_s(**environ: str) -> dict[str, float]:
        given = {"VAR_DIR": "/var", **environ}
        names = ["web", "smtpd", "delivery1"]
        specs = specs_of(names, given, web=LISTEN, flower=LISTEN)
        return {one.name: one.stop_s for one in specs}

    assert stop_s() == {"web": 15.0, "smtpd": 35.0, "delivery1": 40.0}
    assert stop_s(STOP_S="600") == {"web": 15.0, "smtpd": 605.0, "delivery1": 610.0}
    with pytest.raises(FleetError, match="STOP_S: from 5 to 3600"):
        stop_s(STOP_S="0")


def test_no_password_stands_on_a_command_line() -> None:
    environment = {"VAR_DIR": "/var", "NODE": "n1", "FLOWER_BASIC_AUTH": f"op:{SECRET}"}
    environment["BROKER_URL"] = f"amqp://u:{SECRET}@h/v"
    specs = specs_of(usual_names("live", {}, cores=1), environment, web=LISTEN, flower=LISTEN)
    assert [one.name for one in specs if SECRET in " ".join(one.command)] == []
    assert specs[1].extra["WORKER_KIND"] == "priority"
    assert "priority@n1" in specs[1].argv


@pytest.mark.parametrize("text", ["8025", ":8025", "127.0.0.1:", "127.0.0.1:x", "h:0", "h:65536"])
def test_an_address_that_is_none_is_refused_by_the_name_of_its_variable(text: str) -> None:
    with pytest.raises(FleetError, match="WEB_LISTEN"):
        Listen.parse("WEB_LISTEN", text)


def test_an_address_says_where_a_browser_finds_it() -> None:
    assert Listen.parse("WEB_LISTEN", "0.0.0.0:80").url == "http://127.0.0.1:80"
    assert Listen.parse("WEB_LISTEN", "[::1]:80").url == "http://[::1]:80"


# ── the environment ───────────────────────────────────────────────────────────────────────────


def test_an_env_file_is_read_as_systemd_does(tmp_path: Path) -> None:
    path = tmp_path / "env"
    path.write_text("# a\n; b\n\nNODE=n1\nA = 'x y'\nB=\"1=2\"\nC=\n")
    assert read_env_file(path) == {"NODE": "n1", "A": "x y", "B": "1=2", "C": ""}
    assert joined({"NODE": "mine", "A": ""}, path)["NODE"] == "mine"
    assert joined({"NODE": "mine", "A": ""}, path)["A"] == "x y"


@pytest.mark.parametrize(
    ("line", "value"),
    [
        (r"A=a\b\\c\"", 'ab\\c"'),
        (r'A="a\"b\\c\d\$"', 'a"b\\c\\d$'),
        (r"A='a\b\'", "a\\b\\"),
        ("A=a#b ;c", "a#b ;c"),
        ("A=a'b\"c", "a'b\"c"),
        ("A=x\u2028y", "x\u2028y"),
        ("  A  =  x  ", "x"),
    ],
)
def test_a_value_is_unquoted_as_systemd_does(tmp_path: Path, line: str, value: str) -> None:
    path = tmp_path / "env"
    path.write_bytes(f"\ufeff# Windows\r\n{line}\r\nB=2\r\n".encode())
    assert read_env_file(path) == {"A": value, "B": "2"}


def test_a_variable_that_is_empty_in_the_file_is_not_set(tmp_path: Path) -> None:
    path = tmp_path / "env"
    path.write_text("VAR_DIR=\n")
    assert joined({}, path) == {}


@pytest.mark.parametrize(
    "line",
    [
        f"export X={SECRET}",
        SECRET,
        f"X='{SECRET}",
        f"X='{SECRET}' # mine",
        f'X="{SECRET}"more',
        f'X="{SECRET}\\"',
        f"X={SECRET}\\",
    ],
)
def test_a_line_that_is_no_variable_is_named_by_number_and_not_repeated(
    tmp_path: Path, line: str
) -> None:
    path = tmp_path / "env"
    path.write_text(f"NODE=n1\n{line}\n")
    with pytest.raises(FleetError, match="line 2") as caught:
        read_env_file(path)
    assert SECRET not in str(caught.value)


def test_everything_that_is_missing_is_named_at_once() -> None:
    found = {one.variable: one for one in survey({"NODE": "n1"}, ())}
    missing = {name for name, one in found.items() if one.text == "is not set"}
    urls = {f"{name}_URL" for name in ("DATABASE", "BROKER", "REDIS", "CLICKHOUSE", "SPOOL")}
    assert missing == urls | {"SECRET_KEYS", "MODE"}
    assert found["NODE"].is_good


@pytest.mark.parametrize(
    ("variable", "value", "reason"),
    [
        ("DATABASE_URL", f"mysql://u:{SECRET}@h/d", "does not begin with postgresql://"),
        ("DATABASE_URL", f"postgresql://u:{SECRET}@127.0.0.1:1/d", "onnection refused"),
        ("DATABASE_URL", f"postgresql://u:{SECRET}@127.0.0.1:x/d", "it is no URL"),
        ("BROKER_URL", f"http://u:{SECRET}@h/", "does not begin with amqp://"),
        ("BROKER_URL", f"amqp://u:{SECRET}@127.0.0.1:1/v", "127.0.0.1:1: "),
        ("REDIS_URL", f"redis://:{SECRET}@127.0.0.1:1/0", "refused"),
        ("REDIS_URL", f"amqp://:{SECRET}@h", "does not begin with redis://"),
        ("CLICKHOUSE_URL", f"clickhouse://u:{SECRET}@127.0.0.1:1/d", "refused"),
        ("CLICKHOUSE_URL", f"http://u:{SECRET}@h/d", "is none of"),
        ("SPOOL_URL", "spool", "file:///"),
        ("SPOOL_URL", "file:///proc/none", "/proc/none: "),
        ("SPOOL_URL", f"mongodb://u:{SECRET}@127.0.0.1:1", "the name of a database"),
        ("SPOOL_URL", f"mongodb://u:{SECRET}@127.0.0.1:1/d?connectTimeoutMS=9", "refused"),
        ("SECRET_KEYS", f"1:{SECRET}", "number:base64"),
        ("NODE", "A_b", "lower-case"),
        ("MODE", "test", "neither lab nor live"),
        ("FLOWER_BASIC_AUTH", SECRET, "is not user:password"),
        ("FLOWER_BROKER_API", f"http://u:{SECRET}@127.0.0.1:1/api/", "does not read %XX"),
        ("FLOWER_BROKER_API", "http://u:zzz@127.0.0.1:1/api/", "refused"),
        ("FLOWER_BROKER_API", "http://u:zzz@127.0.0.1:1/", "/api/"),
        ("FLOWER_LISTEN", "nowhere", "address:port"),
        ("PUBLIC_URL", "panel.example.com", "https://"),
    ],
)
def test_what_is_wrong_is_named_with_its_reason_and_never_a_password(
    variable: str, value: str, reason: str
) -> None:
    found = {one.variable: one for one in survey({variable: value}, ("web", "flower"))}
    assert not found[variable].is_good
    assert reason in found[variable].text
    assert SECRET not in str(found[variable])
    assert "\n" not in str(found[variable])


@pytest.mark.parametrize("password", ["hun@ter", "hun/ter", "hun?ter", "hun#ter", "hun%ter"])
@pytest.mark.parametrize(
    ("variable", "scheme"),
    [
        ("DATABASE_URL", "postgresql"),
        ("BROKER_URL", "amqp"),
        ("REDIS_URL", "redis"),
        ("CLICKHOUSE_URL", "clickhouse"),
        ("SPOOL_URL", "mongodb"),
        ("FLOWER_BROKER_API", "http"),
    ],
)
def test_a_password_that_is_not_escaped_is_refused_and_no_part_of_it_is_told(
    variable: str, scheme: str, password: str
) -> None:
    url = f"{scheme}://u:{password}@127.0.0.1:1/api/"
    found = {one.variable: one for one in survey({variable: url}, ("flower",))}
    assert "%XX" in found[variable].text
    assert "hun" not in found[variable].text
    assert "ter" not in found[variable].text.replace("character", "")


def test_an_address_that_is_taken_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        where = f"127.0.0.1:{taken.getsockname()[1]}"
        found = {one.variable: one for one in survey({"WEB_LISTEN": where}, ("web",))}
    assert f"{where} cannot be listened on" in found["WEB_LISTEN"].text


def test_a_directory_in_which_a_fleet_runs_is_refused_and_one_that_a_killed_one_left_is_not(
    tmp_path: Path,
) -> None:
    check_unused(tmp_path)
    house = House(tmp_path, "live", environ={"SECRET_KEYS": KEYS})
    house.claim()
    with pytest.raises(FleetError, match="a fleet runs in"):
        check_unused(tmp_path)
    house.release()
    check_unused(tmp_path)


def test_the_key_ring_of_the_environment_is_used_and_none_is_drawn(tmp_path: Path) -> None:
    house = House(tmp_path, "live", environ={"SECRET_KEYS": KEYS, "FLOWER_BASIC_AUTH": "a:b"})
    assert house.environment({})["SECRET_KEYS"] == KEYS
    assert house.flower_auth("operator") == "a:b"
    assert not (tmp_path / "secrets.env").exists()
    # Only its operator knows where a live panel is reached.
    assert house.public_url("http://127.0.0.1:8025") == {}


# ── a fleet that runs ─────────────────────────────────────────────────────────────────────────


def line(name: str, state: ChildState, revision: int | None, *, restarts: int = 0) -> ProcessLine:
    return ProcessLine(name, state.value, 7, 3700.0, restarts, revision)


RUNNING = ChildState.RUNNING
WHOLE = (line("web", RUNNING, None), line("delivery1", RUNNING, 4), line("event", RUNNING, 4))


def overview(*lines: ProcessLine, active: int | None = 4, fault: str = "") -> Overview:
    return Overview("n1", "live", 90000.0, active, fault, lines)


def test_a_node_is_synced_when_every_worker_reports_the_revision_in_force() -> None:
    assert overview(*WHOLE).is_good
    assert overview(*WHOLE).lines()[:2] == [
        "node n1, mode live, up 1 d 1 h",
        "policy revision 4, node synced",
    ]
    late = overview(*WHOLE, line("upkeep", RUNNING, 3))
    assert not late.is_synced
    assert late.lines()[1] == "policy revision 4, node not synced: upkeep"


def test_a_process_that_is_down_or_a_policy_that_is_not_known_is_not_good() -> None:
    down = overview(*WHOLE, line("beat", ChildState.STOPPED, None, restarts=2))
    assert down.is_synced
    assert not down.is_good
    assert "stopped" in down.lines()[-1]
    assert not overview(*WHOLE, active=None, fault="postgresql is away").is_good
    assert "manage.py seed" in overview(active=None).lines()[1]


def test_an_overview_travels_as_json() -> None:
    assert read_overview(fields_of(overview(*WHOLE))) == overview(*WHOLE)
    with pytest.raises(FleetError, match="another release"):
        read_overview({"node": "n1"})


class Kept:
    """A keeper that notes its orders."""

    def __init__(self) -> None:
        self.orders: list[str] = []

    def overview(self) -> Overview:
        return overview(*WHOLE)

    def start_one(self, name: str) -> None:
        self.orders.append(f"start {name}")

    def stop_one(self, name: str) -> None:
        if name == "gardener":
            raise FleetError("there is no process 'gardener'")
        self.orders.append(f"stop {name}")


def test_a_fleet_is_asked_and_told_through_its_desk(tmp_path: Path) -> None:
    var_dir = tmp_path / ("a long name " * 10).strip()
    (var_dir / "run").mkdir(parents=True)
    kept = Kept()
    desk = Desk(var_dir, kept)
    desk.open()
    try:
        assert read_overview(ask(var_dir, "status")["overview"]) == overview(*WHOLE)
        ask(var_dir, "restart", name="event")
        assert kept.orders == ["stop event", "start event"]
        with pytest.raises(FleetError, match="no process 'gardener'"):
            ask(var_dir, "stop", name="gardener")
        with pytest.raises(FleetError, match="knows how to dance"):
            ask(var_dir, "dance")
    finally:
        desk.close()
    with pytest.raises(FleetError, match="no fleet is up"):
        ask(var_dir, "status")


def test_a_desk_left_by_a_killed_fleet_is_taken_over(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "fleet.sock").write_text("")
    desk = Desk(tmp_path, Kept())
    desk.open()
    try:
        assert "overview" in ask(tmp_path, "status")
    finally:
        desk.close()


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"MODE": ""}, "MODE is not set"),
        ({"MODE": "test"}, "neither lab nor live"),
        ({"DATABASE_URL": ""}, "DATABASE_URL is not set"),
        ({}, "FLOWER_BASIC_AUTH is not set"),
    ],
)
def test_one_process_is_not_started_in_an_environment_that_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: dict[str, str], reason: str
) -> None:
    names = ("DATABASE_URL", "BROKER_URL", "REDIS_URL", "CLICKHOUSE_URL", "SPOOL_URL")
    sound = {**dict.fromkeys(names, "x://y"), "MODE": "live", "SECRET_KEYS": KEYS}
    sound["SPOOL_URL"] = "file:///none"
    for name, value in {**sound, "FLOWER_BASIC_AUTH": "", **given}.items():
        monkeypatch.setenv(name, value)
    options = {"verb": "exec", "name": "flower", "env_file": None, "var": tmp_path}
    with pytest.raises(FleetError, match=reason):
        run(options, say=print, asked=threading.Event())
