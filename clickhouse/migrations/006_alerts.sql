-- Where the catalog changed in the log: one row per control block that was counted. What was in force before block n
-- is restored from the rows before n.
CREATE TABLE IF NOT EXISTS control_rows
(
    block_partition Int32,
    block UInt64,
    body String,
    recorded_at DateTime64(6, 'UTC')
)
ENGINE = ReplacingMergeTree
ORDER BY (block_partition, block)
COMMENT 'The control blocks of usage.priced that were counted, as they stand there; the same block written twice is one row.';

-- The transitions of alerts: one row each, as published on usage.alerts.
--
-- Sorting key: readers ask for one org; an alert id and its sequence name a transition, so a replay, which decides the
-- same transition again, replaces its own row. The lowest block stays: the version is the complement of the block.
-- Partitioned by the append time of the block, which a replay has in common with the first time, so that both rows
-- meet in one partition. crossed_time is null, and the words beside it empty, when no event is behind a transition.
CREATE TABLE IF NOT EXISTS alerts_rows
(
    alert_id String,
    sequence UInt32,
    transition LowCardinality(String),
    rule String,
    rule_revision UInt32,
    org String,
    scope String,
    scope_id String,
    measure String,
    unit String,
    window String,
    window_start Nullable(DateTime64(6, 'UTC')),
    window_end Nullable(DateTime64(6, 'UTC')),
    threshold Decimal(38, 12),
    percent Nullable(Decimal(38, 12)),
    budget Nullable(Decimal(38, 12)),
    value Decimal(38, 12),
    highest Bool,
    crossed_source String,
    crossed_id String,
    crossed_time Nullable(DateTime64(6, 'UTC')),
    top_kinds Array(String),
    top_ids Array(String),
    top_values Array(Decimal(38, 12)),
    unpriced UInt64,
    watermark DateTime64(6, 'UTC'),
    method String,
    block_partition Int32,
    block UInt64,
    recorded_at DateTime64(6, 'UTC'),
    version UInt64 DEFAULT bitNot(block),
    INDEX block_range block TYPE minmax GRANULARITY 1
)
ENGINE = ReplacingMergeTree(version)
PARTITION BY toYYYYMM(recorded_at)
ORDER BY (org, alert_id, sequence)
COMMENT 'Transitions of alerts, one per alert id and sequence once merged; read the view alerts, which is exact at any time.';

CREATE VIEW IF NOT EXISTS alerts AS
SELECT
    alert_id,
    sequence,
    transition,
    rule,
    rule_revision,
    org,
    scope,
    scope_id,
    measure,
    unit,
    window,
    window_start,
    window_end,
    threshold,
    percent,
    budget,
    value,
    highest,
    crossed_source,
    crossed_id,
    crossed_time,
    top_kinds,
    top_ids,
    top_values,
    unpriced,
    watermark,
    method,
    recorded_at,
    block_partition,
    block
FROM alerts_rows FINAL
COMMENT 'One row per transition of an alert, never two of one alert_id and sequence; recorded_at is when its block was appended. unit is empty for what is only counted. A filter on org is cheap.';

-- The calendar windows, summed from the hourly totals whenever they are read, so that they can differ from nothing.
--
-- The kinds of windows stand in a small table of their own on the right of the join: a filter on scope or window
-- shrinks it before anything is multiplied, and a filter on org reaches the sorting key on the left.
-- A memo (schemas/frames.py, MEMO_METERS) repeats a part of another quantity, so it is no token of its own unless a
-- book gave it a price, and with it a name.
CREATE VIEW IF NOT EXISTS windows AS
SELECT
    org,
    scope,
    scope_id,
    window,
    start,
    sum(lane.requests) AS requests,
    sum(lane.ok) AS ok,
    sum(lane.failed) AS failed,
    sum(lane.tokens) AS tokens,
    sum(lane.cost) AS cost,
    sum(lane.unpriced) AS unpriced
FROM
(
    SELECT
        org,
        hour,
        project,
        api_key,
        model,
        `user`,
        operation,
        requests,
        ok,
        failed,
        arraySum(
            (quantity, meter, name) -> if(
                endsWith(meter, '_tokens') AND NOT (meter IN ('reasoning_tokens') AND name = ''),
                quantity,
                toDecimal128(0, 12)
            ),
            quantities,
            meters,
            names
        ) AS tokens,
        cost,
        unpriced
    FROM totals_rows FINAL
    WHERE requests > 0
) AS lane
CROSS JOIN
(
    SELECT
        arrayJoin(['org', 'project', 'api_key', 'model', 'user', 'operation']) AS scope,
        arrayJoin(['hour', 'day', 'week', 'month', 'total']) AS window
) AS kind
WHERE scope_id != ''
GROUP BY
    org,
    scope,
    multiIf(
        scope = 'org', org,
        scope = 'project', project,
        scope = 'api_key', api_key,
        scope = 'model', model,
        scope = 'user', `user`,
        operation
    ) AS scope_id,
    window,
    multiIf(
        window = 'hour', toNullable(hour),
        window = 'day', toStartOfDay(hour),
        window = 'week', toDateTime(toMonday(hour), 'UTC'),
        window = 'month', toDateTime(toStartOfMonth(hour), 'UTC'),
        NULL
    ) AS start
COMMENT 'One row per calendar window (hour, day, week from Monday, month, total) of each org, project, api_key, model, user and operation; an absent value has no window. start is null for total; tokens are all quantities named *_tokens that are no memo. Exact whenever it is read, and cheap with a filter on org; scope and window narrow it further. Rolling windows: tally report windows.';
