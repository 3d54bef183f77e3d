"""The tables of policy and vault; their one home is mailio/ddl/policy.sql."""

from django.db import migrations

from mailio.snapshots import schema_sql


class Migration(migrations.Migration):
    initial = True
    dependencies = []
    operations = [
        migrations.RunSQL(
            schema_sql(),
            "DROP TABLE policy_ack; DROP TABLE policy_revision; DROP TABLE vault_secret;",
        ),
    ]
