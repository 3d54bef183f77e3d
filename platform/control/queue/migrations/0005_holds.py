"""Holds, and what a purge took away. The script guards itself."""

from django.db import migrations

from mailio.ledger import schema


class Migration(migrations.Migration):
    dependencies = [("queue", "0004_mailboxes")]
    operations = [migrations.RunSQL(schema.sql("0004"), migrations.RunSQL.noop)]
