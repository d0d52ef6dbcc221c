"""A table."""

from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.execute("CREATE TABLE samples (id bigint PRIMARY KEY, text text NOT NULL)")


def downgrade() -> None:
    op.execute("DROP TABLE samples")
