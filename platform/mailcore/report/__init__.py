"""Delivery status notifications: which event is told to the sender by mail, and the mail itself.

Gives    Report, ReportKind, report_of, may_lead_to_reports; Way, way_of (through what it is sent);
         build_report (the message's bytes), submission_of
Takes    events that carry DsnFacts, the policy in force, the message's content while it exists
Raises   SchemaError for facts that cannot be read
Follows  RFC 3461 §5-6 (when to report), RFC 3464 and RFC 6522 (the report), RFC 6533 (in UTF-8),
         RFC 3834 (automatic answers), RFC 5321 §6.1 (never about a null reverse-path)
"""

from mailcore.report.build import build_report as build_report
from mailcore.report.due import DELAY_AFTER_S as DELAY_AFTER_S
from mailcore.report.due import Report as Report
from mailcore.report.due import ReportKind as ReportKind
from mailcore.report.due import Way as Way
from mailcore.report.due import may_lead_to_reports as may_lead_to_reports
from mailcore.report.due import report_of as report_of
from mailcore.report.due import submission_of as submission_of
from mailcore.report.due import way_of as way_of
