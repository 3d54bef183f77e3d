"""The ledger's tables; their one home is mailio/ledger/ddl. The script guards itself."""

from django.db import migrations

from mailio.ledger import schema


class Migration(migrations.Migration):
    initial = True
    dependencies = []
    operations = [migrations.RunSQL(schema.sql("0001"), migrations.RunSQL.noop)]
