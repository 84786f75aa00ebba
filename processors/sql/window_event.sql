SELECT
  clean(host) AS host,
  clean("user") AS "user",
  program_name(program, path) AS program,
  clean(program_version) AS program_version,
  clean(path) AS path,
  clean(title) AS title,
  clean(url) AS url,
  clean(document) AS document,
  lower(clean(domain)) AS domain,
  clean(time_zone) AS time_zone,
  CAST(event_time AS BIGINT) > CAST(received_at AS BIGINT) + 300000000 AS flag_future_time,
  CAST(event_time AS BIGINT) < 946684800000000 AS flag_implausible_time,
  hid_code < 0 AS flag_impossible_code,
  program_name(program, path) IS NULL AND clean(title) IS NULL AND clean(url) IS NULL AND clean(document) IS NULL
    AND clean(window_id) IS NULL AND hid_code IS NULL AND parameters IS NULL AND extra IS NULL AS drop_empty_window
FROM events
