SELECT
  clean(host) AS host,
  clean("user") AS "user",
  clean(path) AS path,
  path_class(clean(path)) AS path_class,
  program_name(process_name, CAST(NULL AS VARCHAR)) AS process_name,
  CAST(event_time AS BIGINT) > CAST(received_at AS BIGINT) + 300000000 AS flag_future_time,
  CAST(event_time AS BIGINT) < 946684800000000 AS flag_implausible_time,
  size_bytes < 0 AS flag_negative_size,
  pid < 0 AS flag_impossible_process,
  clean(path) IS NULL AS drop_no_path
FROM events
