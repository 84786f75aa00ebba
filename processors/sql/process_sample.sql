-- The number of processors is not known here, so only a load beyond any machine (1,024 processors) is impossible.
-- A sample of no process, and one of a process that used neither processor nor memory, is insignificant.
SELECT
  clean(host) AS host,
  clean("user") AS "user",
  program_name(name, path) AS name,
  clean(path) AS path,
  clean(pids) AS pids,
  CAST(event_time AS BIGINT) > CAST(received_at AS BIGINT) + 300000000 AS flag_future_time,
  CAST(event_time AS BIGINT) < 946684800000000 AS flag_implausible_time,
  cpu_percent < 0.0 OR cpu_percent > 102400.0 AS flag_cpu_out_of_range,
  memory_bytes < 0 AS flag_negative_size,
  pid < 0 OR group_size < 1 AS flag_impossible_process,
  program_name(name, path) IS NULL AND pid IS NULL AND clean(pids) IS NULL AS drop_empty_sample,
  cpu_percent = 0.0 AND memory_bytes = 0 AS drop_idle_sample
FROM events
