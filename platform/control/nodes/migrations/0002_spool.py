"""When a node warns of its disk and when it stops, and what its upkeep finds there. The ledger's
script guards itself."""

import django.core.validators
from django.db import migrations, models

import control.fields
from mailio.ledger import schema


class Migration(migrations.Migration):
    dependencies = [("nodes", "0001_initial"), ("queue", "0005_holds")]
    operations = [
        migrations.AddField(
            model_name="node",
            name="spool_stop_mb",
            field=models.PositiveIntegerField(
                default=256,
                help_text="Programs are answered 503 then; what was accepted is delivered.",
                validators=[django.core.validators.MaxValueValidator(16777216)],
                verbose_name="accept nothing below free space on the spool's disk (MB)",
            ),
        ),
        migrations.AddField(
            model_name="node",
            name="spool_warn_mb",
            field=models.PositiveIntegerField(
                default=2048,
                help_text="Every page of the panel warns then, as it does a day before the disk is full.",
                validators=[django.core.validators.MaxValueValidator(16777216)],
                verbose_name="warn below free space on the spool's disk (MB)",
            ),
        ),
        migrations.AlterField(
            model_name="node",
            name="spool_retention_s",
            field=control.fields.SecondsField(
                default=0.0,
                help_text=(
                    "How long content is kept after it was written, whether or not its recipients"
                    " are done before; 0: it goes once they are, after a grace time of a quarter of"
                    " an hour."
                ),
                verbose_name="spool cleaner timeout (days)",
            ),
        ),
        migrations.RunSQL(schema.sql("0005"), migrations.RunSQL.noop),
    ]
