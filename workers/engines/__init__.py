"""Engines join decisions and adapters. They see ports only: no adapter, no Celery, no Django."""
