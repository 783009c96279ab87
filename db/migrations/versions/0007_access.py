"""Keys expire, are named, issued by a request and rotated; limits of a source.

Revision ID: 0007
Revises: 0006
"""

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

STATEMENTS = (
    """
    ALTER TABLE api_key
        ADD COLUMN prefix text COLLATE "C",
        ADD COLUMN label text,
        ADD COLUMN expires_at timestamptz,
        ADD COLUMN lifetime interval,
        ADD COLUMN last_used_at timestamptz,
        ADD COLUMN issuer text COLLATE "C",
        ADD COLUMN seq text COLLATE "C",
        ADD COLUMN content json,
        ADD CONSTRAINT api_key_issuer_seq_key UNIQUE (issuer, seq),
        ADD CONSTRAINT api_key_content_check
            CHECK ((seq IS NULL) = (issuer IS NULL) AND (seq IS NULL) = (content IS NULL))
    """,
    "CREATE INDEX api_key_created_at_id_idx ON api_key (created_at, id)",
    """
    CREATE TABLE source_limit (
        source text COLLATE "C" NOT NULL,
        open_holds_max int,
        held_units_max bigint,
        hold_seconds_max int,
        requests_per_second int,
        tracking text COLLATE "C" NOT NULL,
        open_holds bigint NOT NULL,
        held_units bigint NOT NULL,
        version bigint NOT NULL,
        CONSTRAINT source_limit_pkey PRIMARY KEY (source),
        CONSTRAINT source_limit_tracking_check CHECK (tracking IN ('off', 'counting', 'on')),
        CONSTRAINT source_limit_quota_check
            CHECK ((tracking = 'off') = (open_holds_max IS NULL AND held_units_max IS NULL)),
        CONSTRAINT source_limit_used_check
            CHECK (tracking <> 'on' OR (open_holds >= 0 AND held_units >= 0))
    ) WITH (fillfactor = 50)
    """,
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
