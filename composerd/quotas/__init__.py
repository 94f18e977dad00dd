"""Quotas of tenants: how much of the server each may use. Nothing here knows a request or an identity."""

from composerd.quotas.limits import STORED, Limits, Quota, QuotaTable, parse
from composerd.quotas.quotas import Held, Quotas

__all__ = ["STORED", "Held", "Limits", "Quota", "QuotaTable", "Quotas", "parse"]
