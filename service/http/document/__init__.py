"""The pages that explain the API: its OpenAPI document, and each kind of error."""
