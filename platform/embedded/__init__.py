"""The embedded stack: private PostgreSQL, Valkey and chdb under one directory, and the supervisor.

Gives    `stack.Stack` (find or start, watch, stop), `supervise.Supervisor` (any processes of ours)
Takes    programs out of wheels from PyPI; no root, no system package
Follows  docs/operate/embedded.md
"""
