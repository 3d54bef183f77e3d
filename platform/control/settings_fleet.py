"""Settings of `manage.py fleet`, which starts and watches processes and touches no row.

Gives    what Django needs to run a command
Takes    nothing: a wrong environment is for the command to tell, every variable of it
Raises   nothing
"""

INSTALLED_APPS = ["control"]
USE_TZ = True
# The command says itself what is wrong; drivers would add their stack traces.
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {"nowhere": {"class": "logging.NullHandler"}},
    "root": {"handlers": ["nowhere"]},
}
