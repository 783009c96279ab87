"""Import in parts: the record of an import has the total number of rows.

Revision ID: 0005
Revises: 0004
"""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("ALTER TABLE import_job ADD COLUMN rows_in_all integer")
    op.execute("UPDATE import_job SET rows_in_all = created + skipped")
    op.execute(
        "ALTER TABLE import_job ALTER COLUMN rows_in_all SET NOT NULL,"
        " ADD CONSTRAINT import_job_rows_in_all_check CHECK (created + skipped <= rows_in_all)"
    )
