-- Which corrections came after the month of their event had closed, seen from a span: taken back from it, or shown in it?
--
-- A month closes max_age after its end; its figures are final then. A correction that entered the log later is taken back
-- from the figures of its event's span (corrects = ''), and shown in the span in which it entered the log, under the
-- month that it corrects. Seen by the totals, only what they contain counts (by_totals = 1): a correction is stored a
-- moment before its total. What belongs to an event as a whole is taken at the first of its names.
WITH
    late AS
    (
        SELECT
            *,
            old_names,
            old_states,
            names,
            states,
            formatDateTime(time, '%Y-%m') AS month,
            time >= fromUnixTimestamp64Micro({start_us:Int64}, 'UTC')
                AND time < fromUnixTimestamp64Micro({end_us:Int64}, 'UTC') AS is_taken_back,
            corrected_at >= fromUnixTimestamp64Micro({start_us:Int64}, 'UTC')
                AND corrected_at < fromUnixTimestamp64Micro({end_us:Int64}, 'UTC') AS is_shown,
            cityHash64(org, toStartOfHour(time), project, api_key, environment, `user`, operation, provider, model) AS lane
        FROM corrections_rows FINAL
        WHERE org = {org:String}
            AND toUnixTimestamp64Micro(corrected_at)
                >= toUnixTimestamp(toDateTime(addMonths(toStartOfMonth(time), 1), 'UTC')) * 1000000 + {max_age_us:Int64}
            AND (is_taken_back OR is_shown)
    ),
    counted AS
    (
        SELECT *
        FROM late
        WHERE {by_totals:UInt8} = 0
            OR (lane, correction_block) IN (
                SELECT
                    late.lane,
                    late.correction_block
                FROM late
                INNER JOIN
                (
                    SELECT
                        cityHash64(org, hour, project, api_key, environment, `user`, operation, provider, model) AS lane,
                        max(version) AS version
                    FROM totals_rows
                    WHERE org = {org:String}
                        AND hour IN (SELECT toStartOfHour(time) FROM late)
                    GROUP BY lane
                ) AS totals ON late.lane = totals.lane
                WHERE late.correction_block <= totals.version
            )
    ),
    sides AS
    (
        SELECT
            *,
            side.1 AS sign,
            side.2 AS side_cost,
            side.3 AS is_unpriced,
            arrayFilter(line -> line.1 != '', side.4) AS priced_lines
        FROM counted
        ARRAY JOIN
            [
                (-1, ifNull(old_cost, 0), old_pricing = 'unpriced',
                    arrayZip(old_names, old_quantities, arrayMap(one -> ifNull(one, 0), old_costs), old_states)),
                (1, ifNull(cost, 0), pricing = 'unpriced',
                    arrayZip(names, quantities, arrayMap(one -> ifNull(one, 0), costs), states))
            ] AS side
    )
SELECT
    seen.1 AS corrects,
    project,
    operation,
    model,
    priced.1 AS name,
    sum(seen.2 * sign * if(priced.4 = 'billed', priced.2, 0)) AS quantity,
    sum(seen.2 * sign * priced.3) AS meter_cost,
    sumIf(seen.2 * sign * is_unpriced, place <= 1) AS unpriced_events,
    sumIf(seen.2 * sign * side_cost, place <= 1) AS event_cost
FROM sides
ARRAY JOIN
    arrayFilter(one -> one.3, [('', -1, is_taken_back), (month, 1, is_shown)]) AS seen
LEFT ARRAY JOIN
    priced_lines AS priced,
    arrayEnumerate(priced_lines) AS place
GROUP BY corrects, project, operation, model, name
ORDER BY corrects, project, operation, model, name
SETTINGS do_not_merge_across_partitions_select_final = 1
