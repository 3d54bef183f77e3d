"""The encodings of an ISP have an effect from here on, and say nothing unless somebody sets them."""

from django.db import migrations, models

FIELDS = ("encoding_global", "encoding_html", "encoding_text")
OVERALL = [
    ("as_submitted", "As submitted"),
    ("quoted-printable", "Quoted-Printable"),
    ("base64", "Base64"),
    ("8bit", "8-bit"),
]
KIND = [("as_submitted", "As the global one"), *OVERALL[1:]]


def forget_what_nobody_set(apps, schema_editor):
    """No page showed these fields: what stands there is the old default, which meant nothing."""
    isps = apps.get_model("mta", "Isp").objects
    isps.filter(**dict.fromkeys(FIELDS, "quoted-printable")).update(
        **dict.fromkeys(FIELDS, "as_submitted")
    )


class Migration(migrations.Migration):
    dependencies = [("mta", "0002_initial")]

    operations = [
        migrations.AlterField(
            model_name="isp",
            name="encoding_global",
            field=models.CharField(
                choices=OVERALL,
                default="as_submitted",
                help_text="How the texts of a message travel to this ISP. Attachments, signed and encrypted parts stay as they are, and so do messages that bring a DKIM signature.",
                max_length=20,
                verbose_name="encoding: global",
            ),
        ),
        migrations.AlterField(
            model_name="isp",
            name="encoding_html",
            field=models.CharField(
                choices=KIND,
                default="as_submitted",
                max_length=20,
                verbose_name="encoding: HTML",
            ),
        ),
        migrations.AlterField(
            model_name="isp",
            name="encoding_text",
            field=models.CharField(
                choices=KIND,
                default="as_submitted",
                help_text="8-bit: a text with lines over 998 octets goes as Quoted-Printable all the same, and so does every text to a server that takes no 8-bit content.",
                max_length=20,
                verbose_name="encoding: text",
            ),
        ),
        migrations.RunPython(forget_what_nobody_set, migrations.RunPython.noop),
    ]
