"""The API and the operator's page over HTTP: from requests to commands, and back to responses."""
