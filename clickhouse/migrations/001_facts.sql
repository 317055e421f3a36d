-- The facts: one row per counted event, with its price and what it was decided from.
--
-- Sorting key: readers ask for one org over a time range, so these stand first; the rest completes the identity
-- (org, source, id). A replay has the same time and received_at and so replaces itself; a repeat with another time
-- is a conflict and never gets here; an id used again after the dedupe horizon has another received_at.
-- Of several rows of one key the one of the lowest block stays: the version is the complement of the block.
-- Plain strings on purpose: merging a LowCardinality column costs several times what merging its text does (measured
-- on this table with 26.9: 4.8 against 1.2 microseconds of CPU per row and merge), and every row is merged a few times.
-- lines names the quantities in their order, one "meter TAB name TAB price_id TAB state" per line; few distinct texts.
-- No row holds now(): recorded_at is the block's append time, so every writer writes the same bytes.
CREATE TABLE IF NOT EXISTS facts_rows
(
    org String,
    time DateTime64(6, 'UTC'),
    source String,
    id String,
    received_at DateTime64(6, 'UTC'),
    project String,
    api_key String,
    environment String,
    `user` String,
    operation String,
    provider String,
    model String,
    variant String,
    status String,
    tags String,
    cost Nullable(Decimal(38, 12)),
    pricing String,
    lines String,
    quantities Array(Decimal(38, 12)),
    costs Array(Nullable(Decimal(38, 12))),
    topic String,
    partition Int32,
    offset Int64,
    `index` Int32,
    of Int32,
    block_partition Int32,
    block UInt64,
    recorded_at DateTime64(6, 'UTC'),
    identity_hash UInt64,
    version UInt64 DEFAULT bitNot(block),
    meters Array(String) ALIAS arrayMap(line -> splitByChar('\t', line)[1], if(empty(lines), [], splitByChar('\n', lines))),
    names Array(String) ALIAS arrayMap(line -> splitByChar('\t', line)[2], if(empty(lines), [], splitByChar('\n', lines))),
    price_ids Array(String) ALIAS arrayMap(line -> splitByChar('\t', line)[3], if(empty(lines), [], splitByChar('\n', lines))),
    states Array(String) ALIAS arrayMap(line -> splitByChar('\t', line)[4], if(empty(lines), [], splitByChar('\n', lines))),
    INDEX block_range block TYPE minmax GRANULARITY 1,
    INDEX identity_filter identity_hash TYPE bloom_filter(0.001) GRANULARITY 1,
    INDEX offset_range offset TYPE minmax GRANULARITY 1
)
ENGINE = ReplacingMergeTree(version)
PARTITION BY toYYYYMM(received_at)
PRIMARY KEY (org, time)
ORDER BY (org, time, source, id, received_at)
COMMENT 'Counted events, one per identity once merged; read the view facts, which is exact at any time.';
