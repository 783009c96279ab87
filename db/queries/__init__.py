"""Queries beside the ledger: lists, the audit, credentials and the page's sessions."""
