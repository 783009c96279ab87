"""Sessions with PostgreSQL: addresses, connections, the pool, transactions and their failures."""
