"""The access log: uses of admin keys, and refused requests.

Revision ID: 0008
Revises: 0007
"""

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

STATEMENTS = (
    """
    CREATE TABLE access_log (
        id uuid NOT NULL,
        at timestamptz NOT NULL,
        key_id uuid,
        source text COLLATE "C",
        address text COLLATE "C",
        method text COLLATE "C",
        route text COLLATE "C",
        status int,
        request_id text COLLATE "C",
        count bigint NOT NULL,
        CONSTRAINT access_log_pkey PRIMARY KEY (id),
        CONSTRAINT access_log_count_check CHECK (count >= 1)
    )
    """,
    "CREATE INDEX access_log_at_id_idx ON access_log (at, id)",
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
