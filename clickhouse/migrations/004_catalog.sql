-- Price books and rule sets as applied, each revision whole; append-only.
CREATE TABLE IF NOT EXISTS catalog_rows
(
    name String,
    revision UInt32,
    kind String,
    applied_at DateTime64(6, 'UTC'),
    body String
)
ENGINE = ReplacingMergeTree
ORDER BY (name, revision)
COMMENT 'Every revision of every price book and rule set, as the JSON that went to usage.catalog.';

-- The rows of every price book revision, typed, for readers and for explaining a fact by its price ids.
CREATE TABLE IF NOT EXISTS price_rows
(
    book String,
    revision UInt32,
    `row` UInt32,
    price_id String,
    applied_at DateTime64(6, 'UTC'),
    currency String,
    org String,
    operation String,
    provider String,
    model String,
    variant String,
    meter String,
    name String,
    price Decimal(38, 12),
    per Decimal(38, 12),
    valid_from Nullable(DateTime64(6, 'UTC')),
    valid_until Nullable(DateTime64(6, 'UTC')),
    bill String,
    body String
)
ENGINE = ReplacingMergeTree
ORDER BY (book, revision, `row`)
COMMENT 'The price rows of every book revision; read the view price_books.';

-- The adjustments of every price book revision, likewise: a price id names those that were applied to its price.
CREATE TABLE IF NOT EXISTS adjustment_rows
(
    book String,
    revision UInt32,
    `row` UInt32,
    adjustment_id String,
    applied_at DateTime64(6, 'UTC'),
    org String,
    operation String,
    provider String,
    model String,
    variant String,
    meter String,
    multiplier Decimal(38, 12),
    valid_from Nullable(DateTime64(6, 'UTC')),
    valid_until Nullable(DateTime64(6, 'UTC')),
    body String
)
ENGINE = ReplacingMergeTree
ORDER BY (book, revision, `row`)
COMMENT 'The adjustments of every book revision; read the view adjustments.';

-- What must never change under a running installation, such as the partition count of usage.priced.
CREATE TABLE IF NOT EXISTS installation_rows
(
    name String,
    value String
)
ENGINE = ReplacingMergeTree
ORDER BY name
COMMENT 'Facts about this installation that workers check at start.';
