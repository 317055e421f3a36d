-- Repeats of counted events, with the coordinates of both records. The key is the repeat's own raw coordinates, so a
-- replay writes the same row again; the lowest block stays.
CREATE TABLE IF NOT EXISTS duplicates_rows
(
    kind String,
    org String,
    source String,
    id String,
    time DateTime64(6, 'UTC'),
    topic String,
    partition Int32,
    offset Int64,
    `index` Int32,
    of Int32,
    received_at DateTime64(6, 'UTC'),
    first_topic String,
    first_partition Int32,
    first_offset Int64,
    first_index Int32,
    block_partition Int32,
    block UInt64,
    recorded_at DateTime64(6, 'UTC'),
    version UInt64 DEFAULT bitNot(block)
)
ENGINE = ReplacingMergeTree(version)
PARTITION BY toYYYYMM(received_at)
ORDER BY (org, topic, partition, offset, `index`)
COMMENT 'Repeats (duplicates and conflicts) of counted events; read the view duplicates.';

-- What was refused, keyed by raw coordinates: the same refusal written twice is one row.
CREATE TABLE IF NOT EXISTS rejected_rows
(
    reason String,
    detail String,
    topic String,
    partition Int32,
    offset Int64,
    `index` Int32,
    of Int32,
    received_at DateTime64(6, 'UTC'),
    org String,
    id String,
    payload_sha256 String,
    payload_prefix String
)
ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMM(received_at)
ORDER BY (topic, partition, offset, `index`)
COMMENT 'Refused events and conflicts; read the view rejected.';
