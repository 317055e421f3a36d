-- Which period prices were in force at the end of a span: those of the newest revision of each book applied before it?
-- What was applied later never speaks of a span that was over.
SELECT
    name,
    revision,
    JSONExtractRaw(body, 'period_prices') AS period_prices
FROM catalog_rows FINAL
WHERE kind = 'price_book'
    AND applied_at < fromUnixTimestamp64Micro({end_us:Int64}, 'UTC')
ORDER BY name, revision DESC
LIMIT 1 BY name
