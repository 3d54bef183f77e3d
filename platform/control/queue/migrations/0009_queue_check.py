"""What the checker of the queue found, and when it looked. The script guards itself."""

from django.db import migrations

from mailio.ledger import schema


class Migration(migrations.Migration):
    dependencies = [("queue", "0008_sts_policies")]
    operations = [migrations.RunSQL(schema.sql("0009"), migrations.RunSQL.noop)]
