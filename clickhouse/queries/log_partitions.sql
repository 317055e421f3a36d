-- Which partitions of usage.priced did the facts of one org come from?
SELECT DISTINCT block_partition
FROM facts_rows
WHERE org = {org:String}
ORDER BY block_partition
