"""A process that holds a stack, for the tests to find, interrupt and kill.

    python -m tests.io.embedded.holder DIR SERVICE,SERVICE

Gives    one JSON line with the URLs and pids once all is ready; after Ctrl-C a line that tells
         whether PostgreSQL still answered then; ends when its standard input does
"""

import json
import os
import select
import sys
from pathlib import Path

from embedded.postgres import answers
from embedded.signals import stop_signals
from embedded.stack import Stack


def tell(**fields: object) -> None:
    sys.stdout.write(json.dumps(fields) + "\n")
    sys.stdout.flush()


def main() -> None:
    with stop_signals() as asked:
        services = sys.argv[2].split(",")
        with Stack(Path(sys.argv[1]), os.environ, services=services) as stack:
            pids = {name: status.pid for name, status in stack.status().items()}
            states = {name: status.state.value for name, status in stack.status().items()}
            tell(urls=stack.urls(), pids=pids, states=states)
            while not asked.is_set():
                if select.select([sys.stdin], [], [], 0.05)[0]:
                    return
            port = int(stack.urls()["DATABASE_URL"].rpartition(":")[2].partition("/")[0])
            tell(answers_after_ctrl_c=answers(port))


if __name__ == "__main__":
    main()
