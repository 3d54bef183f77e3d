"""MTA-STS policies that the fleet has fetched. The script guards itself."""

from django.db import migrations

from mailio.ledger import schema


class Migration(migrations.Migration):
    dependencies = [("queue", "0006_hold")]
    operations = [migrations.RunSQL(schema.sql("0008"), migrations.RunSQL.noop)]
