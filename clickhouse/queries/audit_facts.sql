-- How many facts of a slice, as counted or as corrected, have a cost that is not the sum of their lines, or a pricing that does not fit it?
-- A line has a cost if and only if it has a price's name; the fact has one if and only if a line has; what is not
-- billed costs nothing; unpriced means that a line lacks a price or that none has one; free means that the cost is 0.
SELECT
    sum(sign) AS facts,
    countIf(sign > 0 AND (
        ifNull(cost, 0) != arraySum(line_cost -> ifNull(line_cost, 0), costs)
        OR isNull(cost) = arrayExists(line_cost -> isNotNull(line_cost), costs)
        OR arrayExists((name, line_cost) -> (name = '') != isNull(line_cost), names, costs)
        OR arrayExists((state, line_cost) -> state = 'not_billed' AND ifNull(line_cost, 0) != 0, states, costs)
        OR (pricing = 'unpriced') != (has(states, 'unpriced') OR isNull(cost))
        OR (pricing = 'free' AND ifNull(cost, 1) != 0)
        OR pricing NOT IN ('priced', 'free', 'unpriced')
    ) AS is_odd) AS odd_facts,
    groupArrayIf(5)(concat(org, ' ', source, ' ', id), is_odd) AS examples
FROM changes
WHERE org >= {org_first:String}
    AND org <= {org_last:String}
    AND time >= toDateTime({start:UInt32}, 'UTC')
    AND time < toDateTime({end:UInt32}, 'UTC')
ORDER BY facts
SETTINGS do_not_merge_across_partitions_select_final = 1
