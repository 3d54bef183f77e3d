"""What a client that came by SMTP asks to be told. The ledger's script guards itself."""

from django.db import migrations

from mailio.ledger import schema


class Migration(migrations.Migration):
    dependencies = [("queue", "0006_hold")]
    operations = [migrations.RunSQL(schema.sql("0007"), migrations.RunSQL.noop)]
