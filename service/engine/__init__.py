"""How commands become transactions: queue, batches, retries, and the work in the background."""
