"""The ledger: accounts, transfers and their entries."""

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

ACCOUNTS = """
CREATE TABLE accounts (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    -- One for each currency: where opening balances come from. What it owes is the sum of its entries;
    -- kept in its row, it would make every opening wait for the one before.
    is_funding boolean NOT NULL DEFAULT false,
    owner text NOT NULL,
    currency text NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
    -- Minor units, and no more of them than a JSON number holds exactly.
    balance bigint NOT NULL DEFAULT 0 CHECK (balance BETWEEN 0 AND 9007199254740991),
    created_at timestamptz NOT NULL DEFAULT now()
)
"""
ONE_FUNDING_ACCOUNT = "CREATE UNIQUE INDEX accounts_funding ON accounts (currency) WHERE is_funding"

TRANSFERS = """
CREATE TABLE transfers (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    from_account bigint NOT NULL REFERENCES accounts,
    to_account bigint NOT NULL REFERENCES accounts CHECK (to_account <> from_account),
    amount bigint NOT NULL CHECK (amount > 0),
    currency text NOT NULL,
    memo text NOT NULL,
    -- In the row itself: whoever repeats a request finds what it did, for as long as that exists.
    idempotency_key text,
    created_at timestamptz NOT NULL DEFAULT now()
)
"""
ONE_TRANSFER_A_KEY = """
CREATE UNIQUE INDEX transfers_idempotency_key ON transfers (idempotency_key)
WHERE idempotency_key IS NOT NULL
"""

ENTRIES = """
CREATE TABLE entries (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    transfer_id bigint NOT NULL REFERENCES transfers,
    account_id bigint NOT NULL REFERENCES accounts,
    amount bigint NOT NULL CHECK (amount <> 0),
    created_at timestamptz NOT NULL DEFAULT now()
)
"""
PAGES_OF_ENTRIES = "CREATE INDEX entries_of_account ON entries (account_id, id)"

# Where the service has a role of its own (deploy/postgres): what is booked stays as it is, and of an account
# nothing changes but the balance.
APPEND_ONLY = """
DO $$ BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'app' AND rolname <> current_user) THEN
        REVOKE UPDATE, DELETE ON accounts, transfers, entries FROM app;
        GRANT UPDATE (balance) ON accounts TO app;
    END IF;
END $$
"""


def upgrade() -> None:
    op.execute(ACCOUNTS)
    op.execute(ONE_FUNDING_ACCOUNT)
    op.execute(TRANSFERS)
    op.execute(ONE_TRANSFER_A_KEY)
    op.execute(ENTRIES)
    op.execute(PAGES_OF_ENTRIES)
    op.execute(APPEND_ONLY)


def downgrade() -> None:
    op.execute("DROP TABLE entries, transfers, accounts")
