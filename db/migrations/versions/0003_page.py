"""Sessions of the operator's page, and the one-time tokens of its forms.

Revision ID: 0003
Revises: 0002
"""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

TABLES = (
    """
    CREATE TABLE page_session (
        digest bytea NOT NULL,
        key_id uuid NOT NULL,
        created_at timestamptz NOT NULL,
        expires_at timestamptz NOT NULL,
        CONSTRAINT page_session_pkey PRIMARY KEY (digest)
    )
    """,
    "CREATE INDEX page_session_expires_at_idx ON page_session (expires_at)",
    """
    CREATE TABLE page_token (
        digest bytea NOT NULL,
        created_at timestamptz NOT NULL,
        expires_at timestamptz NOT NULL,
        used_at timestamptz,
        CONSTRAINT page_token_pkey PRIMARY KEY (digest)
    )
    """,
    "CREATE INDEX page_token_expires_at_idx ON page_token (expires_at)",
)


def upgrade() -> None:
    for statement in TABLES:
        op.execute(statement)
