-- How many transitions of alerts stand in the store for each org (or for one), at most?
SELECT
    org,
    count() AS rows
FROM alerts_rows
WHERE {org:String} = '' OR org = {org:String}
GROUP BY org
ORDER BY org
