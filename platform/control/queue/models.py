"""The ledger, as people look at it: unmanaged models.

The tables' one home is mailio/ledger/ddl; tests/control compares columns. Nothing here writes but
holds, which control.queue.services places and releases.
"""

from __future__ import annotations

from typing import Any, ClassVar

from django.db import models
from django.db.models import Case, F, OuterRef, Q, Subquery, When
from django.db.models.functions import Now
from django.utils.translation import gettext_lazy as _

from control.access import READ, READ_ONLY, AccessRule, Verb
from control.queue.choices import Scope
from mailcore import holds as core
from mailcore.outcome import MailClass, RowState, TlsNeed, WaitReason

CLASS_CHOICES = [(one.value, one.word) for one in MailClass]
STATE_CHOICES = [(one.value, one.name.lower()) for one in RowState]
TLS_CHOICES = [(one.value, one.name.lower()) for one in TlsNeed]
REASON_CHOICES = [(one.value, one.value) for one in WaitReason]
OWN = AccessRule(admin=READ, master=READ, account_user=READ, account_path="account_id")
_USE = frozenset({Verb.VIEW, Verb.ADD, Verb.CHANGE})
# As the database judges it, whose clock it is.
IN_FORCE = Q(released_at=None) & (Q(ends_at=None) | Q(ends_at__gt=Now()))


class Campaign(models.Model):
    """A label an account puts on related mail."""

    access: ClassVar[AccessRule] = OWN

    id = models.AutoField(_("ID"), primary_key=True)
    account_id = models.IntegerField(_("account ID"))
    label = models.TextField(_("label"))
    created_at = models.DateTimeField(_("since"))

    class Meta:
        managed = False
        db_table = "campaign"
        verbose_name = _("campaign")
        verbose_name_plural = _("campaigns")
        ordering = ["-id"]

    def __str__(self) -> str:
        return self.label


class Lane(models.Model):
    """Rows alike in all that decides when and where they go."""

    access: ClassVar[AccessRule] = OWN

    id = models.BigAutoField(_("ID"), primary_key=True)
    sender_id = models.IntegerField(_("sender ID"))
    account_id = models.IntegerField(_("account ID"))
    campaign_id = models.IntegerField(_("campaign ID"))
    mail_class = models.SmallIntegerField(_("class"), choices=CLASS_CHOICES)
    site = models.TextField(_("site"))
    tls_need = models.SmallIntegerField(_("TLS need"), choices=TLS_CHOICES)
    isp_id = models.IntegerField(_("ISP ID"))
    waiting = models.BigIntegerField(_("waiting"))
    leased = models.BigIntegerField(_("leased"))
    unknown = models.BigIntegerField(_("unknown"))
    next_due_at = models.DateTimeField(_("next due at"))
    touch_no = models.BigIntegerField(_("touched"))

    class Meta:
        managed = False
        db_table = "ledger_lane"
        verbose_name = _("lane")
        verbose_name_plural = _("lanes")
        ordering = ["-waiting", "id"]

    def __str__(self) -> str:
        return f"{self.id} → {self.site or _('unrouted')}"


class Row(models.Model):
    """One recipient still owed a result."""

    access: ClassVar[AccessRule] = READ_ONLY

    id = models.BigAutoField(_("ID"), primary_key=True)
    lane = models.ForeignKey(
        Lane, verbose_name=_("lane"), on_delete=models.DO_NOTHING, db_constraint=False
    )
    state = models.SmallIntegerField(_("state"), choices=STATE_CHOICES)
    recipient_no = models.IntegerField(_("recipient number"))
    attempt = models.IntegerField(_("attempts"))
    claim_no = models.IntegerField(_("claim number"))
    incarnation = models.BigIntegerField(_("incarnation"), null=True)
    due_at = models.DateTimeField(_("due at"))
    accepted_at = models.DateTimeField(_("accepted at"))
    expires_at = models.DateTimeField(_("expires at"))
    message_id = models.UUIDField(_("message ID"))
    content_segment = models.BigIntegerField(_("segment"))
    content_offset = models.BigIntegerField(_("offset"))
    content_length = models.IntegerField(_("bytes"))
    content_crc = models.BigIntegerField(_("checksum"))
    pinned_source_id = models.IntegerField(_("pinned source ID"), null=True)
    recipient = models.TextField(_("recipient"))
    reverse_path = models.TextField(_("reverse path"))
    header_from = models.TextField(_("From"))
    message_id_header = models.TextField(_("Message-ID"))
    custom = models.TextField(_("custom data"))
    reason = models.TextField(_("why it waits"), choices=REASON_CHOICES)
    last_reply = models.TextField(_("last answer"))

    class Meta:
        managed = False
        db_table = "ledger_row"
        verbose_name = _("queued recipient")
        verbose_name_plural = _("queued recipients")
        ordering = ["-id"]

    def __str__(self) -> str:
        return self.recipient


class Incarnation(models.Model):
    """One life of one process that may hold rows."""

    access: ClassVar[AccessRule] = READ_ONLY

    id = models.BigAutoField(_("ID"), primary_key=True)
    node = models.TextField(_("node"))
    process = models.TextField(_("process"))
    journal = models.TextField(_("journal"))
    started_at = models.DateTimeField(_("started at"))
    heartbeat_at = models.DateTimeField(_("last sign of life"))
    ended_at = models.DateTimeField(_("ended at"), null=True)

    class Meta:
        managed = False
        db_table = "ledger_incarnation"
        verbose_name = _("delivery process")
        verbose_name_plural = _("delivery processes")
        ordering = ["-id"]

    def __str__(self) -> str:
        return f"{self.node} {self.process}"


class OutboxRow(models.Model):
    """Events of one accept or settle, kept until every consumer has them."""

    access: ClassVar[AccessRule] = READ_ONLY

    id = models.BigAutoField(_("ID"), primary_key=True)
    created_at = models.DateTimeField(_("at"))
    event_count = models.IntegerField(_("events"))

    class Meta:
        managed = False
        db_table = "ledger_outbox"
        verbose_name = _("outbox batch")
        verbose_name_plural = _("outbox")
        ordering = ["-id"]

    def __str__(self) -> str:
        return f"{self.id}"


class HoldManager(models.Manager["Hold"]):
    """Adds `in_force` and `owner_id`, the account that a hold belongs to."""

    def get_queryset(self) -> models.QuerySet[Hold]:
        """Return all holds; those of an account or its campaigns belong to it, others to none."""
        of_campaign = Campaign.objects.filter(pk=OuterRef("target_id")).values("account_id")[:1]
        owner: Any = Case(
            When(scope=Scope.ACCOUNT, then=F("target_id")),
            When(scope=Scope.CAMPAIGN, then=Subquery(of_campaign)),
            default=None,
            output_field=models.IntegerField(),
        )
        rows: Any = super().get_queryset()
        found: models.QuerySet[Hold] = rows.annotate(
            owner_id=owner, in_force=Case(When(IN_FORCE, then=True), default=False)
        )
        return found


class Hold(models.Model):
    """Mail that must not be sent for now. Kept once released: it tells who stopped what, and when.

    An account may place and release holds on itself and on its campaigns.
    """

    access: ClassVar[AccessRule] = AccessRule(
        admin=_USE, master=_USE, account_user=_USE, account_path="owner_id"
    )
    affects_policy: ClassVar[bool] = False
    # Annotated by the manager.
    in_force: bool
    owner_id: int | None

    id = models.BigAutoField(_("ID"), primary_key=True)
    scope = models.TextField(_("scope"), choices=Scope)
    target_id = models.IntegerField(_("target ID"), default=0)
    target = models.TextField(_("target"), default="")
    reason = models.TextField(_("reason"))
    author = models.TextField(_("placed by"))
    placed_at = models.DateTimeField(_("placed at"), db_default=Now())
    ends_at = models.DateTimeField(
        _("ends at"), null=True, blank=True, help_text=_("Empty: until it is released.")
    )
    released_at = models.DateTimeField(_("released at"), null=True)
    released_by = models.TextField(_("released by"), default="")

    objects: ClassVar[HoldManager] = HoldManager()

    class Meta:
        managed = False
        db_table = "queue_hold"
        verbose_name = _("hold")
        verbose_name_plural = _("holds")
        ordering = ["-id"]

    def __str__(self) -> str:
        return f"{self.id}: {self.words}"

    @property
    def words(self) -> str:
        """What it covers, such as `sender bulk`; with the name if `targets.with_names` added it."""
        name = getattr(self, "target_name", self.target)
        if not name and self.target_id:
            name = str(self.target_id)
        return f"{Scope(self.scope).label} {name}".rstrip()

    @property
    def state(self) -> str:
        """`in_force`, `released` or `ended`: its end came."""
        if self.in_force:
            return "in_force"
        return "released" if self.released_at is not None else "ended"

    def to_core(self) -> core.Hold:
        """Return it as decisions take it."""
        return core.Hold(
            id=self.id,
            scope=core.HoldScope(self.scope),
            target_id=self.target_id,
            target=self.target,
            reason=self.reason,
            author=self.author,
            placed_at=self.placed_at,
            ends_at=self.ends_at,
        )
