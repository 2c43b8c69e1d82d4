-- How many jobs wait, and how long those made lately have waited for their slots, in seconds.
SELECT
  COALESCE(SUM(CASE WHEN state = 'PENDING' THEN 1 ELSE 0 END), 0) AS pending,
  COALESCE(AVG(TIMESTAMP_DIFF(COALESCE(start_time, @now), creation_time, MILLISECOND)), 0) / 1000 AS wait
FROM {jobs}
WHERE creation_time >= @since AND job_type = 'QUERY'
