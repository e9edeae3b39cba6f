"""The audit: certificates derived again from their votes, by code apart from the code that issued them."""

from certify.audit.auditing import AuditReport, audit_folder
from certify.audit.findings import AuditError, Mismatch
from certify.audit.table import CHECKERS, Checker

__all__ = ["CHECKERS", "AuditError", "AuditReport", "Checker", "Mismatch", "audit_folder"]
