"""A stock row keeps the highest fencing token that it has received.

Revision ID: 0002
Revises: 0001
"""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("ALTER TABLE stock ADD COLUMN fence bigint NOT NULL DEFAULT 0")
