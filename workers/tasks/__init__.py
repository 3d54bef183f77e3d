"""Tasks ring the bell: decode, call one engine, return within seconds. They hold no facts."""

from workers.tasks import control, deliver, events, inbound, route, upkeep

__all__ = ["control", "deliver", "events", "inbound", "route", "upkeep"]
