CREATE TABLE orders (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    customer text NOT NULL,
    item text NOT NULL,
    quantity int NOT NULL DEFAULT 1 CHECK (quantity > 0),
    state text NOT NULL DEFAULT 'open',
    confirmed_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE stock (
    item text PRIMARY KEY,
    quantity int NOT NULL CHECK (quantity >= 0)
);
