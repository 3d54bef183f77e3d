"""Holds, figures, verbs and jobs of the queue over HTTP."""
