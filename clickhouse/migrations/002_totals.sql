-- The totals: facts summed per hour and lane, as absolute values after block `version`; never added to.
--
-- Writing a row again, or an older one late, changes nothing: the highest version stays. An org lives in one
-- partition of usage.priced, so its versions are comparable. The named quantities stand in the same row, in arrays
-- sorted by (meter, name), so that one row is one atomic state of its lane; `events` is how many events have the line,
-- so that a line ends with the last event that a correction takes it from.
CREATE TABLE IF NOT EXISTS totals_rows
(
    org String,
    hour DateTime('UTC'),
    project String,
    api_key String,
    environment String,
    `user` String,
    operation String,
    provider String,
    model String,
    requests UInt64,
    ok UInt64,
    failed UInt64,
    unpriced UInt64,
    cost Decimal(38, 12),
    failed_cost Decimal(38, 12),
    newest_time DateTime64(6, 'UTC'),
    meters Array(String),
    names Array(String),
    quantities Array(Decimal(38, 12)),
    billed_quantities Array(Decimal(38, 12)),
    costs Array(Nullable(Decimal(38, 12))),
    unpriced_events Array(UInt64),
    events Array(UInt64),
    block_partition Int32,
    version UInt64
)
ENGINE = ReplacingMergeTree(version)
PARTITION BY toYYYYMM(hour)
PRIMARY KEY (org, hour)
ORDER BY (org, hour, project, api_key, environment, `user`, operation, provider, model)
COMMENT 'Absolute hourly totals by lane; the highest version stays. Read the views totals_hourly and quantities_hourly.';
