-- A process cannot have started after the event that tells of it; five minutes are left for clocks of two sources.
SELECT
  clean(host) AS host,
  clean("user") AS "user",
  program_name(name, path) AS name,
  program_name(parent_name, CAST(NULL AS VARCHAR)) AS parent_name,
  clean(path) AS path,
  path_class(clean(path)) AS path_class,
  clean(command_line) AS command_line,
  lower(clean(hash)) AS hash,
  clean(service) AS service,
  lower(clean(service_state)) AS service_state,
  CAST(event_time AS BIGINT) > CAST(received_at AS BIGINT) + 300000000 AS flag_future_time,
  CAST(event_time AS BIGINT) < 946684800000000 AS flag_implausible_time,
  pid < 0 OR parent_pid < 0 AS flag_impossible_process,
  CAST(started_at AS BIGINT) > CAST(event_time AS BIGINT) + 300000000 AS flag_started_later,
  program_name(name, path) IS NULL AND pid IS NULL AND clean(service) IS NULL AS drop_empty_process
FROM events
