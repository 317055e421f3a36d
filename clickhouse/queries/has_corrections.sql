-- Was any event of this partition corrected before a block?
SELECT 1 AS found
FROM corrections_rows
WHERE block_partition = {block_partition:Int32}
    AND correction_block < {before:UInt64}
LIMIT 1
