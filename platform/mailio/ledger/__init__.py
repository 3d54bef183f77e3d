"""The queue in SQL: one row per recipient still owed a result, its lanes, and the outbox."""
