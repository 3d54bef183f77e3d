"""The kill suite: the whole product on its real services under load, faults in a seeded sequence,
and an account of every message afterwards.

Gives    `make soak [MINUTES=10] [SEED=…] [FAULTS=…]`, `python -m tests.soak`; its short form is
         tests/e2e/services/test_soak.py
Takes    the services of tests.support.services, or the embedded ones; root for faults of the disk
Follows  docs/reliability.md

| module | for |
| --- | --- |
| plan | which faults, in which order: drawn from a seed, pure |
| cutting | lines to the services that can be cut for one process alone |
| ground | services, lines, the spool's disk and the fleet: what faults happen to |
| faults | what each fault does |
| offering | mail from a program that repeats what it got no answer to |
| account | what became of every message, and which fault made which copy; pure |
| run | all of it, one after the other |
"""
