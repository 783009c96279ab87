"""Access: from the credential of a request to its source and its scopes."""
