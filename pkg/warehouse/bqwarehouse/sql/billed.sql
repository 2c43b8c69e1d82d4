-- Bytes billed for a backfill: its own queries by their label, and those of the processors' service accounts that
-- are labelled with no backfill. A script's children are billed, not the script.
SELECT COALESCE(SUM(total_bytes_billed), 0) AS billed
FROM {jobs}
WHERE creation_time >= @since AND creation_time < @until
  AND (statement_type IS NULL OR statement_type <> 'SCRIPT')
  AND (EXISTS (SELECT 1 FROM UNNEST(labels) AS l WHERE l.key = 'sluice_backfill' AND l.value = @backfill)
    OR (user_email IN UNNEST(@accounts) AND NOT EXISTS (SELECT 1 FROM UNNEST(labels) AS l WHERE l.key = 'sluice_backfill')))
