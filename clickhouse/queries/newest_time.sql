-- When did the newest event of one org happen, before an instant? (no row when there is none)
SELECT
    toUnixTimestamp64Micro(time) AS newest_us
FROM facts_rows
WHERE org = {org:String}
    AND time < fromUnixTimestamp64Micro({before_us:Int64}, 'UTC')
ORDER BY org DESC, time DESC
LIMIT 1
