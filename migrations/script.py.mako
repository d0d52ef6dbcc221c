<%!
    def literal(value):
        return f'"{value}"' if isinstance(value, str) else repr(value)
%><%
    # A `make run` applies what is saved, once: what is not written yet must not pass for applied. A merge is complete.
    is_merge = isinstance(down_revision, (tuple, list))
    body = 'op.execute("")' if is_merge else 'raise NotImplementedError("this revision is not written yet")'
%>"""${message}."""

from alembic import op

revision = ${literal(up_revision)}
down_revision = ${literal(down_revision)}
branch_labels = ${literal(branch_labels)}
depends_on = ${literal(depends_on)}


def upgrade() -> None:
    ${body}


def downgrade() -> None:
    ${body}
