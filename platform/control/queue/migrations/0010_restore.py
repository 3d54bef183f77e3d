"""What nodes have witnessed, and the backups that were restored. The script guards itself."""

from django.db import migrations

from mailio.ledger import schema


class Migration(migrations.Migration):
    dependencies = [("queue", "0009_queue_check")]
    operations = [migrations.RunSQL(schema.sql("0010"), migrations.RunSQL.noop)]
