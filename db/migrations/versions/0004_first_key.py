"""Mark the admin key that a service was started with, so that a new one can replace it.

Revision ID: 0004
Revises: 0003
"""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("ALTER TABLE api_key ADD COLUMN is_first boolean NOT NULL DEFAULT false")
    op.execute("ALTER TABLE api_key ALTER COLUMN is_first DROP DEFAULT")
