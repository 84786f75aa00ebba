SELECT
  clean(host) AS host,
  clean("user") AS "user",
  lower(clean(remote_address)) AS remote_address,
  lower(clean(local_address)) AS local_address,
  lower(clean(protocol)) AS protocol,
  lower(clean(direction)) AS direction,
  program_name(process_name, path) AS process_name,
  clean(path) AS path,
  clean(interface) AS interface,
  CAST(event_time AS BIGINT) > CAST(received_at AS BIGINT) + 300000000 AS flag_future_time,
  CAST(event_time AS BIGINT) < 946684800000000 AS flag_implausible_time,
  remote_port < 0 OR remote_port > 65535 OR local_port < 0 OR local_port > 65535 AS flag_impossible_port,
  pid < 0 AS flag_impossible_process,
  clean(remote_address) IS NULL AND clean(local_address) IS NULL AND clean(interface) IS NULL
    AND up IS NULL AND extra IS NULL AS drop_empty_connection
FROM events
