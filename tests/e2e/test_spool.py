"""The spool's disk, in the fleet that runs: a threshold obeyed at once, figures on the page."""

from urllib.parse import urlsplit

from tests.support.fleet import Api, Running, eventually

EVERYTHING_MB = str(2**24)
OFFER = {"from": "news@sender.test", "to": ["ann@accepta.test"], "text": "x"}


def test_a_threshold_saved_at_the_panel_stops_intake_and_lets_it_go_on(running: Running) -> None:
    panel = running.panel()
    number, name = running.query("SELECT id, name FROM nodes_node")[0]
    path = f"nodes/node/{number}/change/"
    panel.save(path, "node", spool_warn_mb=EVERYTHING_MB, spool_stop_mb=EVERYTHING_MB)
    try:
        eventually(lambda: running.api.post(OFFER).status == 503)
        accepted = running.one("SELECT count(*) FROM ledger_outbox WHERE batch_id IS NOT NULL")
        answer = running.api.post(OFFER)
        assert answer.json()["type"] == "urn:postfleet:problem:insufficient_storage"
        assert (answer.status, answer.headers["retry-after"]) == (503, "60")
        again = running.one("SELECT count(*) FROM ledger_outbox WHERE batch_id IS NOT NULL")
        assert again == accepted
        running.ring("upkeep.measure")
        told = "SELECT count(*) FROM spool_node WHERE node = %s AND stop_bytes > free_bytes"
        eventually(lambda: running.one(told, name) == 1)
        assert "The disk is full: nothing is accepted." in panel.get("reports/spool").text
    finally:
        panel.save(path, "node", spool_warn_mb="2048", spool_stop_mb="256")
    eventually(lambda: running.api.post(OFFER).status == 202)


def test_prometheus_needs_a_token_of_its_own(running: Running) -> None:
    parts = urlsplit(running.panel().url)
    scraper = Api(f"{parts.scheme}://{parts.netloc}", running.api.token)
    assert scraper.call("GET", "/metrics").status == 403
    assert scraper.call("GET", "/metrics", None, {"Authorization": ""}).status == 401
