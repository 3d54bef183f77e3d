"""Which messages of which mailbox were read, and what they came to. The script guards itself."""

from django.db import migrations

from mailio.ledger import schema


class Migration(migrations.Migration):
    dependencies = [("queue", "0003_outbox_refused")]
    operations = [migrations.RunSQL(schema.sql("0003"), migrations.RunSQL.noop)]
