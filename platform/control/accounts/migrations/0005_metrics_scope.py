"""The scope of tokens that read metrics."""

from django.db import migrations, models

import control.fields


class Migration(migrations.Migration):
    dependencies = [
        ("accounts", "0004_queue_scope"),
    ]

    operations = [
        migrations.AlterField(
            model_name="apitoken",
            name="scopes",
            field=control.fields.ChoiceArrayField(
                base_field=models.CharField(
                    choices=[
                        ("messages:send", "messages:send"),
                        ("messages:read", "messages:read"),
                        ("queue", "queue"),
                        ("metrics", "metrics"),
                        ("admin", "admin"),
                    ],
                    max_length=40,
                ),
                size=None,
                verbose_name="may be used for",
            ),
        ),
    ]
