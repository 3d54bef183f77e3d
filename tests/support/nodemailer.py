"""Nodemailer, the mail client of Node's world, at one version.

Takes    node and npm; the network once, to install the package below var/cache
Gives    run_node(): a script's output, with nodemailer to require
Raises   MissingService: no node, no npm, or the package cannot be had
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from tests.support.services.base import MissingService, require

VERSION = "10.6.1"
_CACHE = Path(__file__).resolve().parents[2] / "var" / "cache" / "npm"


def run_node(script: str, *arguments: Any) -> Any:
    """Run a script with these arguments, as JSON; return what it printed, read as JSON."""
    modules = _installed()
    said = subprocess.run(
        [require("node", "nodejs"), "-e", script, *map(json.dumps, arguments)],
        env={"PATH": os.environ["PATH"], "NODE_PATH": str(modules)},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert said.returncode == 0, said.stderr
    return json.loads(said.stdout)


def _installed() -> Path:
    require("node", "nodejs")
    npm = require("npm", "npm")
    place = _CACHE / f"nodemailer-{VERSION}"
    if not place.is_dir():
        _CACHE.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(dir=_CACHE))
        command: list[str | Path] = [
            npm,
            "install",
            "--prefix",
            draft,
            "--cache",
            _CACHE / "npm-cache",
        ]
        quiet = ["--ignore-scripts", "--no-audit", "--no-fund", "--no-save", "--loglevel=error"]
        try:
            said = subprocess.run(
                [*command, *quiet, f"nodemailer@{VERSION}"],
                capture_output=True,
                text=True,
                timeout=40,
                check=False,
            )
            why = said.stderr.strip() if said.returncode else ""
        except subprocess.TimeoutExpired:
            why = "npm took too long"
        if why:
            shutil.rmtree(draft, ignore_errors=True)
            raise MissingService(f"nodemailer {VERSION} cannot be had: {why.splitlines()[-1]}")
        try:
            draft.rename(place)
        except OSError:  # Another session was faster.
            shutil.rmtree(draft, ignore_errors=True)
    return place / "node_modules"
