"""The tables of the first release.

Revision ID: 0001
Revises:
"""

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

TABLES = (
    """
    CREATE TABLE stock (
        sku text COLLATE "C" NOT NULL,
        location text COLLATE "C" NOT NULL,
        name text,
        available bigint NOT NULL CONSTRAINT stock_available_check CHECK (available >= 0),
        held bigint NOT NULL CONSTRAINT stock_held_check CHECK (held >= 0),
        low_stock_at bigint CONSTRAINT stock_low_stock_at_check CHECK (low_stock_at >= 0),
        version bigint NOT NULL CONSTRAINT stock_version_check CHECK (version >= 1),
        created_at timestamptz NOT NULL,
        updated_at timestamptz NOT NULL,
        deleted_at timestamptz,
        CONSTRAINT stock_pkey PRIMARY KEY (sku, location),
        CONSTRAINT stock_deleted_at_check
            CHECK (deleted_at IS NULL OR (available = 0 AND held = 0))
    ) WITH (fillfactor = 50)
    """,
    "CREATE INDEX stock_created_at_sku_location_idx ON stock (created_at, sku, location)",
    """
    CREATE TABLE reservation (
        id uuid NOT NULL,
        source text COLLATE "C" NOT NULL,
        seq text COLLATE "C" NOT NULL,
        state text COLLATE "C" NOT NULL CONSTRAINT reservation_state_check CHECK (
            state IN ('held', 'confirmed', 'cancelled', 'expired', 'refunded', 'rejected')
        ),
        version integer NOT NULL CONSTRAINT reservation_version_check CHECK (version >= 1),
        hold_seconds integer,
        expires_at timestamptz,
        metadata json NOT NULL,
        shortages json,
        created_at timestamptz NOT NULL,
        updated_at timestamptz NOT NULL,
        CONSTRAINT reservation_pkey PRIMARY KEY (id),
        CONSTRAINT reservation_source_seq_key UNIQUE (source, seq),
        CONSTRAINT reservation_expires_at_check
            CHECK (state NOT IN ('held', 'cancelled', 'expired') OR expires_at IS NOT NULL),
        CONSTRAINT reservation_shortages_check
            CHECK ((state = 'rejected') = (shortages IS NOT NULL))
    )
    """,
    "CREATE INDEX reservation_created_at_id_idx ON reservation (created_at, id)",
    """
    CREATE INDEX reservation_expires_at_id_idx ON reservation (expires_at, id)
        WHERE state = 'held'
    """,
    """
    CREATE TABLE reservation_line (
        reservation_id uuid NOT NULL,
        sku text COLLATE "C" NOT NULL,
        location text COLLATE "C" NOT NULL,
        quantity bigint NOT NULL CONSTRAINT reservation_line_quantity_check CHECK (quantity > 0),
        confirmed bigint NOT NULL CONSTRAINT reservation_line_confirmed_check
            CHECK (confirmed BETWEEN 0 AND quantity),
        refunded bigint NOT NULL CONSTRAINT reservation_line_refunded_check
            CHECK (refunded BETWEEN 0 AND confirmed),
        CONSTRAINT reservation_line_pkey PRIMARY KEY (reservation_id, sku, location)
    )
    """,
    """
    CREATE INDEX reservation_line_sku_reservation_id_idx
        ON reservation_line (sku, reservation_id)
    """,
    """
    CREATE TABLE refund (
        reservation_id uuid NOT NULL,
        id uuid NOT NULL,
        source text COLLATE "C" NOT NULL,
        seq text COLLATE "C" NOT NULL,
        entire boolean NOT NULL,
        reason text,
        created_at timestamptz NOT NULL,
        CONSTRAINT refund_pkey PRIMARY KEY (reservation_id, id),
        CONSTRAINT refund_source_seq_key UNIQUE (source, seq)
    )
    """,
    """
    CREATE TABLE refund_line (
        reservation_id uuid NOT NULL,
        refund_id uuid NOT NULL,
        sku text COLLATE "C" NOT NULL,
        location text COLLATE "C" NOT NULL,
        quantity bigint NOT NULL CONSTRAINT refund_line_quantity_check CHECK (quantity > 0),
        CONSTRAINT refund_line_pkey PRIMARY KEY (reservation_id, refund_id, sku, location)
    )
    """,
    """
    CREATE TABLE adjustment (
        sku text COLLATE "C" NOT NULL,
        location text COLLATE "C" NOT NULL,
        version bigint NOT NULL,
        id uuid NOT NULL,
        source text COLLATE "C" NOT NULL,
        seq text COLLATE "C" NOT NULL,
        delta bigint NOT NULL CONSTRAINT adjustment_delta_check CHECK (delta <> 0),
        reason text NOT NULL,
        created_at timestamptz NOT NULL,
        CONSTRAINT adjustment_pkey PRIMARY KEY (sku, location, version),
        CONSTRAINT adjustment_source_seq_key UNIQUE (source, seq)
    )
    """,
    """
    CREATE TABLE import_job (
        source text COLLATE "C" NOT NULL,
        job text COLLATE "C" NOT NULL,
        digest text COLLATE "C" NOT NULL,
        created integer NOT NULL,
        skipped integer NOT NULL,
        created_at timestamptz NOT NULL,
        CONSTRAINT import_job_pkey PRIMARY KEY (source, job)
    )
    """,
    """
    CREATE TABLE movement (
        sku text COLLATE "C" NOT NULL,
        location text COLLATE "C" NOT NULL,
        version bigint NOT NULL,
        kind text COLLATE "C" NOT NULL CONSTRAINT movement_kind_check CHECK (
            kind IN ('set', 'import', 'adjust', 'delete',
                     'reserve', 'confirm', 'cancel', 'expire', 'refund')
        ),
        available_delta bigint NOT NULL,
        held_delta bigint NOT NULL,
        reservation_id uuid,
        reservation_version integer,
        created_at timestamptz NOT NULL,
        CONSTRAINT movement_pkey PRIMARY KEY (sku, location, version),
        CONSTRAINT movement_reservation_id_check CHECK (
            (reservation_id IS NOT NULL)
            = (kind IN ('reserve', 'confirm', 'cancel', 'expire', 'refund'))
        )
    )
    """,
    """
    CREATE UNIQUE INDEX movement_step_key
        ON movement (reservation_id, reservation_version, sku, location)
        WHERE reservation_id IS NOT NULL
    """,
    """
    CREATE TABLE api_key (
        id uuid NOT NULL,
        digest bytea NOT NULL,
        source text COLLATE "C" NOT NULL,
        scopes text[] NOT NULL CONSTRAINT api_key_scopes_check CHECK (
            scopes <@ ARRAY['reserve', 'stock', 'read', 'admin'] AND cardinality(scopes) > 0
        ),
        created_at timestamptz NOT NULL,
        revoked_at timestamptz,
        CONSTRAINT api_key_pkey PRIMARY KEY (id),
        CONSTRAINT api_key_digest_key UNIQUE (digest)
    )
    """,
)


def upgrade() -> None:
    for statement in TABLES:
        op.execute(statement)
