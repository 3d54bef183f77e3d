"""The tests, one folder a suite; deploy/suites.py runs them in order."""
