"""An index for rows whose lifetime is over. The script guards itself."""

from django.db import migrations

from mailio.ledger import schema


class Migration(migrations.Migration):
    dependencies = [("queue", "0010_restore")]
    operations = [migrations.RunSQL(schema.sql("0011"), migrations.RunSQL.noop)]
