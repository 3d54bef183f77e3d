from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("domains", "0002_initial"), ("senders", "0001_initial")]

    operations = [
        migrations.AddField(
            model_name="sender",
            name="dkim_keys",
            field=models.ManyToManyField(
                blank=True,
                help_text="DKIM keys that sign all mail of this sender, beside those of each message's From domain: with a domain of your own, ISPs know the mail as yours too.",
                related_name="senders",
                to="domains.dkimkey",
                verbose_name="also sign with",
            ),
        ),
    ]
