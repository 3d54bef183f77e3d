"""Two settings of a node say what they do."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("nodes", "0003_spool_mark")]

    operations = [
        migrations.AlterField(
            model_name="node",
            name="admin_email",
            field=models.EmailField(
                blank=True,
                help_text="Where mail to `postmaster` without a domain goes, which every SMTP server must take. Empty: postmaster at the server's own name.",
                max_length=254,
                verbose_name="SMTP administrator email",
            ),
        ),
        migrations.AlterField(
            model_name="node",
            name="logs_replies",
            field=models.BooleanField(
                default=False,
                help_text="One line for each final answer: recipient domain, host, code and text.",
                verbose_name="write SMTP responses to the log",
            ),
        ),
    ]
