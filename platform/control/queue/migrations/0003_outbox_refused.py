"""Batches of the outbox that a consumer could not read. The script guards itself."""

from django.db import migrations

from mailio.ledger import schema


class Migration(migrations.Migration):
    dependencies = [("queue", "0002_models")]
    operations = [migrations.RunSQL(schema.sql("0002"), migrations.RunSQL.noop)]
