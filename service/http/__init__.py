"""The API and the operator's page over HTTP: a request becomes a command, an outcome a response."""
