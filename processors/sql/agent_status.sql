-- Nothing is dropped: even an empty report says that the agent lives.
SELECT
  clean(host) AS host,
  clean("user") AS "user",
  clean(os) AS os,
  clean(os_version) AS os_version,
  lower(clean(domain)) AS domain,
  clean(time_zone) AS time_zone,
  CAST(event_time AS BIGINT) > CAST(received_at AS BIGINT) + 300000000 AS flag_future_time,
  CAST(event_time AS BIGINT) < 946684800000000 AS flag_implausible_time,
  cpu_percent < 0.0 AS flag_cpu_out_of_range,
  memory_bytes < 0 OR queue_bytes < 0 OR queue_limit_bytes < 0 AS flag_negative_size,
  queue_rows < 0 OR shed_total < 0 AS flag_negative_count,
  interval_s < 0.0 AS flag_negative_interval,
  shed_from > shed_to AS flag_impossible_range
FROM events
