"""Drop the table of one-time tokens: sessions sign them now, and a seq identifies the result.

Revision ID: 0006
Revises: 0005
"""

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("DROP TABLE page_token")
