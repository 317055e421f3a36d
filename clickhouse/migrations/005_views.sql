-- What analysts read. Every view is exact whenever it is read: no FINAL, no argMax needed from the reader.
CREATE VIEW IF NOT EXISTS totals_hourly AS
SELECT
    org,
    project,
    api_key,
    environment,
    `user`,
    operation,
    provider,
    model,
    hour,
    requests,
    ok,
    failed,
    cost,
    unpriced,
    failed_cost,
    newest_time,
    version
FROM totals_rows FINAL
WHERE requests > 0
COMMENT 'Facts summed per hour and lane, one row each, absolute. cost is the sum of what has a price; unpriced counts the events of the row that lack one.';

CREATE VIEW IF NOT EXISTS quantities_hourly AS
SELECT
    org,
    project,
    api_key,
    environment,
    `user`,
    operation,
    provider,
    model,
    hour,
    meter,
    name,
    quantity,
    billed_quantity,
    meter_cost AS cost,
    meter_unpriced_events AS unpriced_events,
    meter_events AS events,
    version
FROM totals_rows FINAL
ARRAY JOIN
    meters AS meter,
    names AS name,
    quantities AS quantity,
    billed_quantities AS billed_quantity,
    costs AS meter_cost,
    unpriced_events AS meter_unpriced_events,
    events AS meter_events
COMMENT 'Named quantities per hour and lane, one row per meter and invoice name. quantity is what was used, billed_quantity what a price applied to, events how many events have the line; cost is null where no event of the row had a price on this meter.';

CREATE VIEW IF NOT EXISTS duplicates AS
SELECT
    kind,
    org,
    source,
    id,
    time,
    topic,
    partition,
    offset,
    `index`,
    first_topic,
    first_partition,
    first_offset,
    first_index,
    received_at,
    recorded_at
FROM duplicates_rows FINAL
COMMENT 'One row per repeat of a counted event: duplicate (same content) or conflict (other content); neither is billed.';

CREATE VIEW IF NOT EXISTS rejected AS
SELECT
    reason,
    detail,
    topic,
    partition,
    offset,
    `index`,
    received_at,
    org,
    id,
    payload_sha256,
    payload_prefix
FROM rejected_rows FINAL
COMMENT 'One row per refused event or conflict, with its raw coordinates; org and id are empty when they could not be read.';

CREATE VIEW IF NOT EXISTS price_books AS
SELECT
    book,
    revision,
    `row`,
    price_id,
    applied_at,
    currency,
    org,
    operation,
    provider,
    model,
    variant,
    meter,
    name,
    price,
    per,
    valid_from,
    valid_until,
    bill,
    body
FROM price_rows FINAL
COMMENT 'Every price row of every applied book revision; price_id is what facts.price_ids holds, up to a *. Rows are never changed or removed.';

CREATE VIEW IF NOT EXISTS adjustments AS
SELECT
    book,
    revision,
    `row`,
    adjustment_id,
    applied_at,
    org,
    operation,
    provider,
    model,
    variant,
    meter,
    multiplier,
    valid_from,
    valid_until,
    body
FROM adjustment_rows FINAL
COMMENT 'Every adjustment of every applied book revision; adjustment_id is what stands behind a * in facts.price_ids. Rows are never changed or removed.';
