"""Whose a spool directory is. The ledger's script guards itself."""

from django.db import migrations

from mailio.ledger import schema


class Migration(migrations.Migration):
    dependencies = [("nodes", "0002_spool")]
    operations = [migrations.RunSQL(schema.sql("0006"), migrations.RunSQL.noop)]
