"""The running service: the supervisor, its workers, their connections and their first start."""
