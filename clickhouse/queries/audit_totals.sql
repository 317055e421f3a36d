-- How many totals of a slice are not the sum of their facts and corrections, or miss a counted block?
--
-- A fence is the first block of its partition that was not committed when the question was asked: all facts and totals
-- of the blocks before it are in the store. A lane whose total is older than the fence is `settled`: if one of its
-- facts before the fence is newer than the total, the total is behind, else the total must be the sum of these facts.
-- A lane whose total is newer is not judged here. The drift is what the costs of settled lanes differ by, each without
-- its sign, in whole 10⁻¹². Figures are compared as fingerprints: Σ figure × hash of its name, in whole 10⁻¹² modulo
-- 2¹²⁸. Facts and corrections add to it with their sign, the total subtracts, and equal figures leave zero.
WITH
    facts AS
    (
        SELECT
            cityHash64(org, toStartOfHour(time), project, api_key, environment, `user`, operation, provider, model) AS lane,
            reinterpret(ifNull(cost, 0), 'Int128') AS cost_units,
            sign * (
                toInt128(cityHash64('requests'))
                + if(status = 'ok', cityHash64('ok'), cityHash64('failed'))
                + if(pricing = 'unpriced', cityHash64('unpriced'), 0)
                + cost_units * cityHash64('cost')
                + if(status = 'ok', 0, cost_units * cityHash64('failed_cost'))
            ) AS sums_print,
            sign * arraySum(
                (meter, name, state, quantity, line_cost) ->
                    reinterpret(quantity, 'Int128') * cityHash64('quantity', meter, name)
                    + if(state = 'billed', reinterpret(quantity, 'Int128') * cityHash64('billed', meter, name), 0)
                    + reinterpret(ifNull(line_cost, 0), 'Int128') * cityHash64('cost', meter, name)
                    + if(state = 'unpriced', toInt128(cityHash64('unpriced', meter, name)), 0)
                    + toInt128(cityHash64('events', meter, name)),
                meters, names, states, quantities, costs
            ) AS quantities_print,
            sign * cost_units AS signed_cost_units,
            time,
            change_block AS block,
            transform(block_partition, {partitions:Array(Int32)}, {fences:Array(UInt64)}, toUInt64(0)) AS fence
        FROM changes
        WHERE org >= {org_first:String}
            AND org <= {org_last:String}
            AND time >= toDateTime({start:UInt32}, 'UTC')
            AND time < toDateTime({end:UInt32}, 'UTC')
    ),
    totals AS
    (
        SELECT
            cityHash64(org, hour, project, api_key, environment, `user`, operation, provider, model) AS lane,
            requests * toInt128(cityHash64('requests'))
                + ok * toInt128(cityHash64('ok'))
                + failed * toInt128(cityHash64('failed'))
                + unpriced * toInt128(cityHash64('unpriced'))
                + reinterpret(cost, 'Int128') * cityHash64('cost')
                + reinterpret(failed_cost, 'Int128') * cityHash64('failed_cost') AS sums_print,
            arraySum(
                (meter, name, quantity, billed_quantity, line_cost, unpriced_event, event) ->
                    reinterpret(quantity, 'Int128') * cityHash64('quantity', meter, name)
                    + reinterpret(billed_quantity, 'Int128') * cityHash64('billed', meter, name)
                    + reinterpret(ifNull(line_cost, 0), 'Int128') * cityHash64('cost', meter, name)
                    + unpriced_event * toInt128(cityHash64('unpriced', meter, name))
                    + event * toInt128(cityHash64('events', meter, name)),
                meters, names, quantities, billed_quantities, costs, unpriced_events, events
            ) AS quantities_print,
            reinterpret(cost, 'Int128') AS cost_units,
            newest_time,
            requests,
            version,
            arrayExists((name, line_cost) -> (name = '') != isNull(line_cost), names, costs) AS has_odd_costs,
            transform(block_partition, {partitions:Array(Int32)}, {fences:Array(UInt64)}, toUInt64(0)) AS fence
        FROM totals_rows FINAL
        WHERE org >= {org_first:String}
            AND org <= {org_last:String}
            AND hour >= toDateTime({start:UInt32}, 'UTC')
            AND hour < toDateTime({end:UInt32}, 'UTC')
    ),
    lanes AS
    (
        SELECT
            lane,
            sum(sums_print) AS sums,
            sum(quantities_print) AS quantities,
            sum(cost_units) AS cost_units,
            max(newest_fact) AS newest_fact,
            max(newest_in_total) AS newest_in_total,
            max(blocks_until) AS blocks_until,
            max(total_until) AS total_until,
            max(fence) AS fence,
            max(has_odd_costs) AS has_odd_costs
        FROM
        (
            SELECT
                lane, sums_print, quantities_print, signed_cost_units AS cost_units, fence,
                time AS newest_fact, toDateTime64(0, 6, 'UTC') AS newest_in_total,
                block + 1 AS blocks_until, 0 AS total_until, 0 AS has_odd_costs
            FROM facts
            WHERE block < fence
            UNION ALL
            SELECT
                lane, -sums_print, -quantities_print, -cost_units, fence,
                toDateTime64(0, 6, 'UTC'), newest_time,
                0, version + 1, has_odd_costs
            FROM totals
        )
        GROUP BY lane
    )
SELECT
    count() AS lanes,
    countIf(total_until > fence) AS lanes_ahead,
    countIf(total_until <= fence AND blocks_until > total_until) AS lanes_behind,
    countIf(total_until <= fence AND blocks_until <= total_until AND (sums != 0 OR newest_fact != newest_in_total)) AS lanes_unequal,
    countIf(total_until <= fence AND blocks_until <= total_until AND (quantities != 0 OR has_odd_costs)) AS lanes_unequal_in_quantities,
    toString(sumIf(abs(cost_units), total_until <= fence)) AS drift_units
FROM lanes
ORDER BY lanes
SETTINGS do_not_merge_across_partitions_select_final = 1
