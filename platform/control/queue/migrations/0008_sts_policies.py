"""MTA-STS policies that the fleet has fetched. The script guards itself."""

from django.db import migrations

from mailio.ledger import schema


class Migration(migrations.Migration):
    dependencies = [("queue", "0007_dsn")]
    operations = [migrations.RunSQL(schema.sql("0008"), migrations.RunSQL.noop)]
