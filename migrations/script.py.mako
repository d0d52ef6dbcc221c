<%!
    def literal(value):
        return f'"{value}"' if isinstance(value, str) else repr(value)
%>"""${message}."""

from alembic import op

revision = ${literal(up_revision)}
down_revision = ${literal(down_revision)}
branch_labels = ${literal(branch_labels)}
depends_on = ${literal(depends_on)}


def upgrade() -> None:
    op.execute("")


def downgrade() -> None:
    op.execute("")
