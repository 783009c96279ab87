"""Queries beside the ledger: lists, records, the audit, credentials and sessions of the page."""
