-- Which event of each of these scopes stands last in the log before a block, within its org's span of time?
SELECT
    org,
    scope_id AS id,
    argMax((source, fact_id, toUnixTimestamp64Micro(time)), (block, partition, offset, `index`)) AS last_fact,
    last_fact.1 AS last_source,
    last_fact.2 AS last_id,
    last_fact.3 AS last_time
FROM
(
    SELECT
        org,
        multiIf(
            {scope:String} = 'org', org,
            {scope:String} = 'project', project,
            {scope:String} = 'api_key', api_key,
            {scope:String} = 'model', model,
            {scope:String} = 'user', `user`,
            operation
        ) AS scope_id,
        source,
        id AS fact_id,
        time,
        block,
        partition,
        offset,
        `index`
    FROM facts_rows FINAL
    WHERE block_partition = {block_partition:Int32}
        AND block < {before:UInt64}
        AND org IN {orgs:Array(String)}
        AND toUnixTimestamp64Micro(time) >= transform(org, {orgs:Array(String)}, {starts:Array(Int64)}, toInt64(0))
        AND toUnixTimestamp64Micro(time) < transform(org, {orgs:Array(String)}, {ends:Array(Int64)}, toInt64(0))
)
WHERE (org, scope_id) IN (SELECT arrayJoin(arrayZip({scope_orgs:Array(String)}, {scope_ids:Array(String)})))
GROUP BY org, scope_id
ORDER BY org, scope_id
