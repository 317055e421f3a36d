-- In which currency does the price book that was applied last count?
SELECT
    currency
FROM price_rows FINAL
ORDER BY applied_at DESC, book, revision DESC, `row`
LIMIT 1
