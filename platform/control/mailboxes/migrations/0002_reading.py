"""The last reading of each mailbox, in a table of the ledger."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("mailboxes", "0001_initial"), ("queue", "0004_mailboxes")]
    operations = [
        migrations.CreateModel(
            name="Reading",
            fields=[
                (
                    "mailbox_id",
                    models.IntegerField(
                        primary_key=True, serialize=False, verbose_name="mailbox ID"
                    ),
                ),
                ("node", models.TextField(verbose_name="node")),
                ("ended_at", models.DateTimeField(null=True, verbose_name="read at")),
                ("read_count", models.IntegerField(verbose_name="messages")),
                ("error", models.TextField(verbose_name="error")),
            ],
            options={
                "verbose_name": "reading of a mailbox",
                "verbose_name_plural": "readings of mailboxes",
                "db_table": "mailbox_poll",
                "managed": False,
            },
        ),
    ]
