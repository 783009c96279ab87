"""The running service: the supervisor, its workers, their connections and the first start."""
